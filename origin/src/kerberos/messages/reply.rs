//! What a KDC answers, compared with what was asked (RFC 4120, 3.1.5 and 3.3.4). Pure.
//!
//! *Guarantees*: a ticket counts only for who asked, and for what was asked or, of what a KDC may name instead, for the tickets of another
//! realm. Without that, whoever is between could have the KDC give a ticket for a service of his own, and be the KDC from then on.

use picky_krb::constants::key_usages;
use picky_krb::data_types::PrincipalName;
use picky_krb::messages::{AsRep, EncAsRepPart, EncKdcRepPart, EncTgsRepPart, KdcRep, TgsRep};

use super::{GRANTING, Key, REFUSAL, Ticket, Wrong, decoded, number, opened, refusal, unix_seconds};
use crate::kerberos::principal::Principal;

/// First byte of an answer: AS-REP, TGS-REP (5.10).
pub(super) const FIRST_ANSWER: u8 = 0x6b;
pub(super) const NEXT_ANSWER: u8 = 0x6d;

/// Which answer is awaited.
#[derive(Clone, Copy, Debug)]
pub(in crate::kerberos) enum Expected<'a> {
    /// A ticket for tickets, of the client's own realm.
    First {
        /// Who asks.
        client: &'a Principal,
        /// That of the request.
        nonce: u32,
    },
    /// A ticket for a service.
    Next {
        /// Who asks.
        client: &'a Principal,
        /// Whose KDC is asked.
        realm: &'a str,
        /// For what.
        service: &'a [&'a str],
        /// That of the request.
        nonce: u32,
    },
}

impl Expected<'_> {
    /// The client's name is never another one: only a first request could ask for that, and does not.
    fn is_for(&self, name: &PrincipalName, realm: &[u8]) -> bool {
        let (Self::First { client, .. } | Self::Next { client, .. }) = self;
        is_named(name, client.names()) && realm == client.realm().as_bytes()
    }

    fn is_of(&self, name: &PrincipalName, realm: &[u8]) -> bool {
        match self {
            Self::First { client, .. } => {
                is_named(name, &[GRANTING, client.realm()]) && realm == client.realm().as_bytes()
            }
            Self::Next {
                realm: asked, service, ..
            } => realm == asked.as_bytes() && (is_named(name, service) || is_referral(name, asked)),
        }
    }
}

/// The ticket that came, if it was made with `key` and is what was asked for.
pub(in crate::kerberos) fn ticket(answer: &[u8], expected: Expected<'_>, key: &Key) -> Result<Ticket, Wrong> {
    let (tag, nonce) = match expected {
        Expected::First { nonce, .. } => (FIRST_ANSWER, nonce),
        Expected::Next { nonce, .. } => (NEXT_ANSWER, nonce),
    };
    if answer.first() == Some(&REFUSAL) {
        return Err(refusal(answer));
    }
    if answer.first() != Some(&tag) {
        return Err(Wrong::Garbled);
    }
    let (answer, usage) = match expected {
        Expected::First { .. } => (decoded::<AsRep>(answer)?.0, key_usages::AS_REP_ENC),
        Expected::Next { .. } => (decoded::<TgsRep>(answer)?.0, key_usages::TGS_REP_ENC_SESSION_KEY),
    };
    let KdcRep {
        pvno: _,
        msg_type: _,
        padata: _,
        crealm,
        cname,
        ticket,
        enc_part,
    } = answer;
    let plain = key.decrypt(usage, opened(&enc_part.0, key)?)?;
    // Some say one kind for the other, and must be understood (5.4.2).
    let part = decoded::<EncTgsRepPart>(&plain).map(|part| part.0);
    let part = match part {
        Ok(part) => part,
        Err(_) => decoded::<EncAsRepPart>(&plain)?.0,
    };
    let EncKdcRepPart {
        key: session,
        nonce: returned,
        auth_time,
        start_time,
        end_time,
        srealm,
        sname,
        ..
    } = part;
    let sealed = &ticket.0.0;
    let is_it = expected.is_for(&cname.0, crealm.0.as_bytes())
        && expected.is_of(&sname.0, srealm.0.as_bytes())
        && strings(&sealed.sname.0).eq(strings(&sname.0))
        && sealed.realm.0.as_bytes() == srealm.0.as_bytes();
    if number(&returned)? != u64::from(nonce) || !is_it {
        return Err(Wrong::Garbled);
    }
    let from = start_time.0.map_or(auth_time.0, |time| time.0);
    Ok(Ticket {
        key: Key::of_message(&session.0)?,
        client: cname.0,
        client_realm: crealm.0,
        service: strings(&sname.0)
            .map(|part| String::from_utf8_lossy(part).into_owned())
            .collect(),
        from_unix_seconds: unix_seconds(&from)?,
        until_unix_seconds: unix_seconds(&end_time.0)?,
        sealed: ticket.0,
    })
}

/// The kind of a name says nothing of who it is (6.2).
fn strings(name: &PrincipalName) -> impl Iterator<Item = &[u8]> {
    name.name_string.0.0.iter().map(|part| part.as_bytes())
}

fn is_named(name: &PrincipalName, expected: &[impl AsRef<str>]) -> bool {
    strings(name).eq(expected.iter().map(|part| part.as_ref().as_bytes()))
}

/// For the tickets of another realm than the one that was asked.
fn is_referral(name: &PrincipalName, asked: &str) -> bool {
    let parts: Vec<_> = strings(name).collect();
    matches!(parts[..], [first, realm] if first == GRANTING.as_bytes() && realm != asked.as_bytes())
}

#[cfg(test)]
mod tests {
    use picky_asn1::bit_string::BitString;
    use picky_asn1::wrapper::{Asn1SequenceOf, BitStringAsn1, Optional};
    use picky_krb::constants::types::NT_PRINCIPAL;
    use picky_krb::data_types::TicketInner;

    use super::*;
    use crate::kerberos::messages::{Sealed, VERSION, encoded, integer, name, sealed, text, time};

    const NONCE: u32 = 7;

    /// Who a reply says that it is for, and for what.
    #[derive(Clone, Copy)]
    struct Says<'a> {
        client: (&'a [&'a str], &'a str),
        part: (&'a [&'a str], &'a str),
        ticket: (&'a [&'a str], &'a str),
    }

    fn key() -> Key {
        Key::new(18, vec![7; 32]).unwrap()
    }

    fn reply(says: Says<'_>, usage: i32) -> KdcRep {
        let now = time(1_764_000_000_000_000).unwrap();
        let part = EncTgsRepPart::from(EncKdcRepPart {
            key: key().message().into(),
            last_req: Asn1SequenceOf(Vec::new()).into(),
            nonce: integer(NONCE).into(),
            key_expiration: Optional(None),
            flags: BitStringAsn1(BitString::with_len(32)).into(),
            auth_time: now.clone().into(),
            start_time: Optional(None),
            end_time: now.into(),
            renew_till: Optional(None),
            srealm: text(says.part.1).unwrap().into(),
            sname: name(NT_PRINCIPAL, says.part.0).unwrap().into(),
            caddr: Optional(None),
            encrypted_pa_data: Optional(None),
        });
        let ticket = TicketInner {
            tkt_vno: integer(VERSION).into(),
            realm: text(says.ticket.1).unwrap().into(),
            sname: name(NT_PRINCIPAL, says.ticket.0).unwrap().into(),
            enc_part: sealed(&key(), 2, b"of the service").unwrap().into(),
        };
        KdcRep {
            pvno: integer(VERSION).into(),
            msg_type: integer(11_u32).into(),
            padata: Optional(None),
            crealm: text(says.client.1).unwrap().into(),
            cname: name(NT_PRINCIPAL, says.client.0).unwrap().into(),
            ticket: Sealed::from(ticket).into(),
            enc_part: sealed(&key(), usage, &encoded(&part).unwrap()).unwrap().into(),
        }
    }

    #[test]
    fn a_first_ticket_is_the_clients_and_for_the_tickets_of_its_realm() {
        let client: Principal = "reader/of.a@A.ORG".parse().unwrap();
        let got = |says: Says<'_>| {
            let answer = encoded(&AsRep::from(reply(says, key_usages::AS_REP_ENC))).unwrap();
            let (client, nonce) = (&client, NONCE);
            ticket(&answer, Expected::First { client, nonce }, &key()).map(drop)
        };
        let own: (&[&str], &str) = (&["krbtgt", "A.ORG"], "A.ORG");
        let good = Says {
            client: (&["reader", "of.a"], "A.ORG"),
            part: own,
            ticket: own,
        };
        assert_eq!(got(good), Ok(()));
        let others: [(&[&str], &str); 4] = [
            (&["evil", "A.ORG"], "A.ORG"),
            (&["krbtgt", "B.ORG"], "A.ORG"),
            (&["krbtgt", "A.ORG"], "B.ORG"),
            (&["krbtgt"], "A.ORG"),
        ];
        for other in others {
            for (part, ticket) in [(other, other), (own, other), (other, own)] {
                assert_eq!(got(Says { part, ticket, ..good }), Err(Wrong::Garbled), "{other:?}");
            }
        }
        let clients: [(&[&str], &str); 2] = [(&["reader"], "A.ORG"), (&["reader", "of.a"], "B.ORG")];
        for client in clients {
            assert_eq!(got(Says { client, ..good }), Err(Wrong::Garbled), "{client:?}");
        }
    }

    #[test]
    fn a_next_ticket_is_for_what_was_asked_or_for_the_tickets_of_another_realm() {
        let client: Principal = "reader@A.ORG".parse().unwrap();
        let got = |says: Says<'_>| {
            let answer = encoded(&TgsRep::from(reply(says, key_usages::TGS_REP_ENC_SESSION_KEY))).unwrap();
            let expected = Expected::Next {
                client: &client,
                realm: "B.ORG",
                service: &["nn", "nn1.b.org"],
                nonce: NONCE,
            };
            ticket(&answer, expected, &key()).map(|ticket| ticket.referral())
        };
        let reader: (&[&str], &str) = (&["reader"], "A.ORG");
        let all = |service: (&'static [&'static str], &'static str)| Says {
            client: reader,
            part: service,
            ticket: service,
        };
        assert_eq!(got(all((&["nn", "nn1.b.org"], "B.ORG"))), Ok(None));
        assert_eq!(got(all((&["krbtgt", "C.ORG"], "B.ORG"))), Ok(Some("C.ORG".to_owned())));
        let others: [(&[&str], &str); 5] = [
            (&["nn", "nn2.b.org"], "B.ORG"),
            (&["HTTP", "nn1.b.org"], "B.ORG"),
            (&["nn", "nn1.b.org"], "A.ORG"),
            (&["krbtgt", "B.ORG"], "B.ORG"),
            (&["krbtgt", "C.ORG"], "A.ORG"),
        ];
        for other in others {
            assert_eq!(got(all(other)), Err(Wrong::Garbled), "{other:?}");
        }
        let other_client = Says {
            client: (&["other"], "A.ORG"),
            ..all((&["nn", "nn1.b.org"], "B.ORG"))
        };
        assert_eq!(got(other_client), Err(Wrong::Garbled));
    }
}

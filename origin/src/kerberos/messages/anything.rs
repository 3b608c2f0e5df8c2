//! Reads any bytes as messages, for tests that look for what makes it panic.

use picky_krb::data_types::{EncApRepPart, TicketInner};
use picky_krb::messages::{ApRep, AsRep, EncAsRepPart, EncKdcRepPart, EncTgsRepPart, KdcRep, TgsRep};

use super::reply::{FIRST_ANSWER, NEXT_ANSWER};
use super::*;

/// As all that is read here.
pub(in crate::kerberos) fn read(input: &[u8]) {
    let read = [
        decoded::<AsRep>(input).map(drop),
        decoded::<TgsRep>(input).map(drop),
        decoded::<EncAsRepPart>(input).map(drop),
        decoded::<EncTgsRepPart>(input).map(|part| {
            let until = unix_seconds(&part.0.end_time.0);
            assert!(until.is_err() || until.is_ok_and(|until| until < 1 << 40));
        }),
        decoded::<ApRep>(input).map(drop),
        decoded::<EncApRepPart>(input).map(drop),
    ];
    let tags = [FIRST_ANSWER, NEXT_ANSWER, 0x79, 0x7a, 0x6f, 0x7b];
    let is_one = |(read, tag): (&Result<(), Wrong>, u8)| read.is_err() || input.first() == Some(&tag);
    assert!(read.iter().zip(tags).all(is_one));
    if let Wrong::Refused(code) = refusal(input) {
        assert!(input.first() == Some(&REFUSAL), "{code}");
    }
    if let (Some(key), Ok(client)) = (Key::new(18, vec![7; 32]), "reader@A.ORG".parse()) {
        let (client, nonce) = (&client, 1);
        let next = Expected::Next {
            client,
            realm: "A.ORG",
            service: &["nn", "host"],
            nonce,
        };
        for expected in [Expected::First { client, nonce }, next] {
            assert!(ticket(input, expected, &key).is_err(), "of another key");
        }
        assert!(key.decrypt(1, input).is_err());
    }
}

/// One of each, as they are sent.
pub(in crate::kerberos) fn samples() -> Vec<Vec<u8>> {
    let made = || -> Result<Vec<Vec<u8>>, Wrong> {
        let key = Key::new(18, vec![7; 32]).ok_or(Wrong::Garbled)?;
        let now = time(1_764_000_000_000_000)?;
        let name = || name(NT_SRV_INST, &[GRANTING, "A.ORG"]);
        let realm = || text("A.ORG");
        let sealed_part = || sealed(&key, 3, b"anything");
        let part = EncKdcRepPart {
            key: key.message().into(),
            last_req: Asn1SequenceOf(Vec::new()).into(),
            nonce: integer(1_u32).into(),
            key_expiration: Optional(None),
            flags: BitStringAsn1(BitString::with_len(32)).into(),
            auth_time: now.clone().into(),
            start_time: Optional(None),
            end_time: now.clone().into(),
            renew_till: Optional(None),
            srealm: realm()?.into(),
            sname: name()?.into(),
            caddr: Optional(None),
            encrypted_pa_data: Optional(None),
        };
        let answer = KdcRep {
            pvno: integer(VERSION).into(),
            msg_type: integer(11_u32).into(),
            padata: Optional(None),
            crealm: realm()?.into(),
            cname: name()?.into(),
            ticket: Sealed::from(TicketInner {
                tkt_vno: integer(VERSION).into(),
                realm: realm()?.into(),
                sname: name()?.into(),
                enc_part: sealed_part()?.into(),
            })
            .into(),
            enc_part: sealed_part()?.into(),
        };
        let error = ApplicationTag::<_, KRB_ERROR_MSG_TYPE>(KrbError {
            pvno: integer(VERSION).into(),
            msg_type: integer(30_u32).into(),
            ctime: Optional(None),
            cusec: Optional(Some(ExplicitContextTag3(integer(5_u32)))),
            stime: now.into(),
            susec: integer(7_u32).into(),
            error_code: integer(WRONG_KEY).into(),
            crealm: Optional(None),
            cname: Optional(None),
            realm: realm()?.into(),
            sname: name()?.into(),
        });
        Ok(vec![
            encoded(&AsRep::from(answer.clone()))?,
            encoded(&TgsRep::from(answer))?,
            encoded(&EncAsRepPart::from(part.clone()))?,
            encoded(&EncTgsRepPart::from(part))?,
            encoded(&error)?,
        ])
    };
    made().unwrap_or_default()
}

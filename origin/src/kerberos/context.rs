//! A context with a service, as RFC 4121 (GSS-API with Kerberos) makes one: who asks is shown, who answers too, and what is said after
//! that can be signed or encrypted. Pure.

use picky_asn1::wrapper::OctetStringAsn1;
use picky_krb::constants::key_usages::{ACCEPTOR_SEAL, AP_REP_ENC, AP_REQ_AUTHENTICATOR, INITIATOR_SEAL};
use picky_krb::data_types::{Checksum, EncApRepPart};
use picky_krb::messages::ApRep;

use super::messages::{self, Key, Said, Ticket, Wrong};

/// The mechanism, 1.2.840.113554.1.2.2, with its tag.
const MECHANISM: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02];
/// What a token is (4.1).
const REQUEST: [u8; 2] = [1, 0];
const REPLY: [u8; 2] = [2, 0];
const REFUSED: [u8; 2] = [3, 0];
const WRAPPED: [u8; 2] = [5, 4];
/// A checksum that says what is wanted (4.1.1).
const WANTED: u32 = 0x8003;
/// Mutual, replay, sequence, confidentiality, integrity; never delegation.
const WANTED_FLAGS: u32 = 0x3e;
/// Flags of a wrapped token (4.2.2).
const BY_ACCEPTOR: u8 = 1;
const SEALED: u8 = 2;
const ACCEPTOR_KEY: u8 = 4;
const HEADER_BYTES: usize = 16;

/// What happens to messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// They are signed.
    Signed,
    /// They are encrypted too.
    Sealed,
}

/// A context with a service.
pub(crate) struct Context {
    /// Of the ticket; with it the service shows that it could open that.
    session: Key,
    key: Key,
    is_acceptors_key: bool,
    asked_unix_micros: i64,
    sent: u64,
    received: u64,
}

impl Context {
    /// With the token that is sent to the service.
    pub(super) fn new(ticket: &Ticket, unix_micros: i64) -> Result<(Self, Vec<u8>), Wrong> {
        let (subkey, sequence) = (ticket.key().another(), rand::random::<u32>() >> 2);
        let mut wanted = 16_u32.to_le_bytes().to_vec();
        // Bound to no channel.
        wanted.extend([0; 16]);
        wanted.extend(WANTED_FLAGS.to_le_bytes());
        let said = Said::ToService {
            cksum: Checksum {
                cksumtype: messages::integer(WANTED).into(),
                checksum: OctetStringAsn1(wanted).into(),
            },
            subkey: &subkey,
            sequence,
        };
        let request = ticket.request(AP_REQ_AUTHENTICATOR, true, said, unix_micros)?;
        let context = Self {
            session: ticket.key().clone(),
            key: subkey,
            is_acceptors_key: false,
            asked_unix_micros: unix_micros,
            sent: u64::from(sequence),
            received: 0,
        };
        Ok((context, framed(REQUEST, &request)))
    }

    /// Takes the service's answer, which shows who it is.
    pub(crate) fn accept(&mut self, token: &[u8]) -> Result<(), super::Error> {
        self.take(token).map_err(|wrong| match wrong {
            Wrong::Refused(messages::CLOCKS) => super::Error::Clocks,
            Wrong::Refused(code) => super::Error::Denied(format!(
                "the name node refuses the ticket (error {code} of RFC 4120); its log says why"
            )),
            Wrong::Garbled => super::Error::Garbled("the name node"),
        })
    }

    fn take(&mut self, token: &[u8]) -> Result<(), Wrong> {
        let (kind, message) = unframed(token).ok_or(Wrong::Garbled)?;
        match kind {
            REPLY => {}
            REFUSED => return Err(messages::refusal(message)),
            _ => return Err(Wrong::Garbled),
        }
        let reply: ApRep = messages::decoded(message)?;
        let encrypted = messages::opened(&reply.0.enc_part.0, &self.session)?;
        let part: EncApRepPart = messages::decoded(&self.session.decrypt(AP_REP_ENC, encrypted)?)?;
        let part = part.0;
        let micros = u64::try_from(self.asked_unix_micros.rem_euclid(1_000_000)).unwrap_or(0);
        if part.ctime.0 != messages::time(self.asked_unix_micros)? || messages::number(&part.cusec)? != micros {
            return Err(Wrong::Garbled);
        }
        if let Some(key) = part.subkey.0 {
            self.key = messages::key_of(&key.0)?;
            self.is_acceptors_key = true;
        }
        self.received = part.seq_number.0.map_or(Ok(0), |number| messages::number(&number.0))?;
        Ok(())
    }

    /// A message for the service.
    pub(crate) fn wrap(&mut self, layer: Layer, message: &[u8]) -> Result<Vec<u8>, super::Error> {
        self.wrapped(layer, message)
            .map_err(|_| super::Error::Garbled("what was to be sent"))
    }

    fn wrapped(&mut self, layer: Layer, message: &[u8]) -> Result<Vec<u8>, Wrong> {
        let is_sealed = layer == Layer::Sealed;
        let mut flags = if is_sealed { SEALED } else { 0 };
        if self.is_acceptors_key {
            flags |= ACCEPTOR_KEY;
        }
        let mut header = header(flags, self.sent);
        self.sent += 1;
        // The header is a part of what is encrypted or signed, without lengths (4.2.4).
        let whole = [message, &header].concat();
        if is_sealed {
            let encrypted = self.key.encrypt(INITIATOR_SEAL, &whole)?;
            return Ok([&header[..], &encrypted].concat());
        }
        let checksum = self.key.checksum(INITIATOR_SEAL, &whole)?;
        header[4..6].copy_from_slice(&(checksum.len() as u16).to_be_bytes());
        Ok([&header[..], message, &checksum].concat())
    }

    /// A message of the service, which is the next one and comes as this layer says, or better.
    pub(crate) fn unwrap(&mut self, layer: Layer, token: &[u8]) -> Result<Vec<u8>, super::Error> {
        self.unwrapped(layer, token)
            .map_err(|_| super::Error::Garbled("the name node"))
    }

    fn unwrapped(&mut self, layer: Layer, token: &[u8]) -> Result<Vec<u8>, Wrong> {
        let (header_sent, body) = token.split_at_checked(HEADER_BYTES).ok_or(Wrong::Garbled)?;
        let flags = header_sent[2];
        let is_sealed = flags & SEALED != 0;
        let mut expected = BY_ACCEPTOR;
        if self.is_acceptors_key {
            expected |= ACCEPTOR_KEY;
        }
        let header = header(flags, self.received);
        let is_next = header_sent[..4] == header[..4] && header_sent[8..] == header[8..];
        if !is_next || flags & !SEALED != expected || (layer == Layer::Sealed && !is_sealed) {
            return Err(Wrong::Garbled);
        }
        let extra = usize::from(u16::from_be_bytes([header_sent[4], header_sent[5]]));
        let rotated = usize::from(u16::from_be_bytes([header_sent[6], header_sent[7]]));
        let mut body = body.to_vec();
        if !body.is_empty() {
            let rotated = rotated % body.len();
            body.rotate_left(rotated);
        }
        let message = if is_sealed {
            let mut plain = self.key.decrypt(ACCEPTOR_SEAL, &body)?;
            let length = plain.len().checked_sub(HEADER_BYTES).ok_or(Wrong::Garbled)?;
            let within = plain.split_off(length);
            // It tells how much was filled up, and not how it was turned.
            if within[..6] != header_sent[..6] || within[8..] != header_sent[8..] {
                return Err(Wrong::Garbled);
            }
            plain.truncate(length.checked_sub(extra).ok_or(Wrong::Garbled)?);
            plain
        } else {
            let length = body.len().checked_sub(extra).ok_or(Wrong::Garbled)?;
            let checksum = body.split_off(length);
            if checksum != self.key.checksum(ACCEPTOR_SEAL, &[&body[..], &header].concat())? {
                return Err(Wrong::Garbled);
            }
            body
        };
        self.received += 1;
        Ok(message)
    }
}

/// As tokens of a service. For tests.
#[cfg(feature = "test-support")]
pub(super) fn read_anything(input: &[u8]) {
    let Some(key) = Key::new(18, vec![7; 32]) else {
        return;
    };
    let mut context = Context {
        session: key.clone(),
        key,
        is_acceptors_key: false,
        asked_unix_micros: 0,
        sent: 0,
        received: 0,
    };
    assert!(context.take(input).is_err());
    for layer in [Layer::Signed, Layer::Sealed] {
        assert!(context.unwrapped(layer, input).is_err());
    }
}

fn header(flags: u8, sequence: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..2].copy_from_slice(&WRAPPED);
    header[2] = flags;
    header[3] = 0xff;
    header[8..].copy_from_slice(&sequence.to_be_bytes());
    header
}

/// A token of GSS-API (RFC 2743, 3.1).
fn framed(kind: [u8; 2], message: &[u8]) -> Vec<u8> {
    let content = [&MECHANISM[..], &kind, message].concat();
    let length = content.len();
    let mut token = vec![0x60];
    match length {
        0..0x80 => token.push(length as u8),
        _ => {
            let bytes = length.to_be_bytes();
            let bytes: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
            token.push(0x80 | bytes.len() as u8);
            token.extend(bytes);
        }
    }
    token.extend(content);
    token
}

fn unframed(token: &[u8]) -> Option<([u8; 2], &[u8])> {
    let rest = token.strip_prefix(&[0x60])?;
    let (length, rest) = rest.split_first()?;
    // How long it is says who sends it already.
    let rest = match length {
        0..0x80 => rest,
        _ => rest.get(usize::from(length & 0x7f)..)?,
    };
    let rest = rest.strip_prefix(&MECHANISM)?;
    let (kind, message) = rest.split_first_chunk()?;
    Some((*kind, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::new(18, vec![byte; 32]).unwrap()
    }

    fn context(key: Key) -> Context {
        Context {
            session: key.clone(),
            key,
            is_acceptors_key: false,
            asked_unix_micros: 0,
            sent: 7,
            received: 7,
        }
    }

    /// What the other side would send of a message, turned by some bytes.
    fn sent_by_acceptor(key: &Key, sequence: u64, layer: Layer, message: &[u8], turned: u16) -> Vec<u8> {
        let is_sealed = layer == Layer::Sealed;
        let mut header = header(BY_ACCEPTOR | if is_sealed { SEALED } else { 0 }, sequence);
        let whole = [message, &header].concat();
        let mut body = if is_sealed {
            key.encrypt(ACCEPTOR_SEAL, &whole).unwrap()
        } else {
            let checksum = key.checksum(ACCEPTOR_SEAL, &whole).unwrap();
            header[4..6].copy_from_slice(&(checksum.len() as u16).to_be_bytes());
            [message, &checksum].concat()
        };
        let turn = usize::from(turned) % body.len();
        body.rotate_right(turn);
        header[6..8].copy_from_slice(&turned.to_be_bytes());
        [&header[..], &body].concat()
    }

    #[test]
    fn a_message_counts_only_once_in_its_order_unchanged_and_as_well_kept_as_was_agreed() {
        for layer in [Layer::Signed, Layer::Sealed] {
            for turned in [0, 1, 12, 28, 1000] {
                let token = sent_by_acceptor(&key(1), 7, layer, b"a message", turned);
                assert_eq!(context(key(1)).unwrapped(layer, &token).unwrap(), b"a message");
                let mut once = context(key(1));
                once.unwrapped(layer, &token).unwrap();
                assert_eq!(once.unwrapped(layer, &token), Err(Wrong::Garbled), "twice");
                assert_eq!(
                    context(key(2)).unwrapped(layer, &token),
                    Err(Wrong::Garbled),
                    "another key"
                );
                for at in 0..token.len() {
                    let mut changed = token.clone();
                    changed[at] ^= 1;
                    // The count of what was turned is not signed; what was turned is.
                    let got = context(key(1)).unwrapped(layer, &changed);
                    assert!(got.is_err() || got.as_deref() == Ok(b"a message"), "{at}: {got:?}");
                    assert!(got.is_err() || (6..8).contains(&at), "{at}");
                }
                for length in 0..token.len() {
                    assert!(context(key(1)).unwrapped(layer, &token[..length]).is_err(), "{length}");
                }
            }
            let later = sent_by_acceptor(&key(1), 8, layer, b"a message", 0);
            assert_eq!(
                context(key(1)).unwrapped(layer, &later),
                Err(Wrong::Garbled),
                "one is missing"
            );
        }
        let signed = sent_by_acceptor(&key(1), 7, Layer::Signed, b"a message", 0);
        assert_eq!(context(key(1)).unwrapped(Layer::Sealed, &signed), Err(Wrong::Garbled));
        // What it sent itself does not come back as an answer.
        let own = context(key(1)).wrapped(Layer::Sealed, b"a message").unwrap();
        assert_eq!(context(key(1)).unwrapped(Layer::Sealed, &own), Err(Wrong::Garbled));
    }

    #[test]
    fn a_token_has_its_frame_of_any_length() {
        for length in [0, 100, 200, 70_000] {
            let message = vec![7; length];
            let token = framed(REPLY, &message);
            assert_eq!(unframed(&token), Some((REPLY, &message[..])), "{length}");
        }
        for token in [&b""[..], b"\x60", b"\x60\x84", b"\x60\x0d", b"\x6e\x00"] {
            assert_eq!(unframed(token), None);
        }
    }
}

//! What is said to KDCs, and what they answer. Pure. Source: RFC 4120 (sections in the comments), key usages in its 7.5.1.

#[cfg(feature = "test-support")]
pub(super) mod anything;
mod reply;

use picky_asn1::bit_string::BitString;
use picky_asn1::date::GeneralizedTime;
use picky_asn1::restricted_string::Ia5String;
use picky_asn1::wrapper::{
    Asn1SequenceOf, BitStringAsn1, ExplicitContextTag0, ExplicitContextTag1, ExplicitContextTag2, ExplicitContextTag3,
    ExplicitContextTag4, ExplicitContextTag5, ExplicitContextTag6, ExplicitContextTag7, ExplicitContextTag8,
    ExplicitContextTag9, ExplicitContextTag10, GeneralStringAsn1, GeneralizedTimeAsn1, IntegerAsn1, OctetStringAsn1,
    Optional,
};
use picky_asn1_der::application_tag::ApplicationTag;
use picky_asn1_der::{from_bytes, to_vec};
use picky_krb::constants::key_usages;
use picky_krb::constants::types::{
    AP_REQ_MSG_TYPE, AS_REQ_MSG_TYPE, KRB_ERROR_MSG_TYPE, NT_PRINCIPAL, NT_SRV_HST, NT_SRV_INST, PA_ENC_TIMESTAMP,
    PA_TGS_REQ_TYPE, TGS_REQ_MSG_TYPE,
};
use picky_krb::crypto::CipherSuite;
use picky_krb::data_types::{
    Authenticator, AuthenticatorInner, Checksum, EncryptedData, EncryptionKey, PaData, PaEncTsEnc, PrincipalName,
    Ticket as Sealed,
};
use picky_krb::messages::{ApReq, ApReqInner, AsReq, KdcReq, KdcReqBody, TgsReq};
use serde::{Deserialize, Serialize};

pub(super) use self::reply::{Expected, ticket};
use super::principal::Principal;

/// Errors of KDCs that people can do something about (7.5.9).
pub(super) const NO_PRINCIPAL: u32 = 6;
pub(super) const NO_SERVICE: u32 = 7;
pub(super) const NO_ETYPE: u32 = 14;
pub(super) const LOCKED: u32 = 18;
pub(super) const KEY_EXPIRED: u32 = 23;
pub(super) const WRONG_KEY: u32 = 24;
pub(super) const BAD_INTEGRITY: u32 = 31;
pub(super) const CLOCKS: u32 = 37;

/// Protocol version.
const VERSION: u8 = 5;
/// First byte of a KRB-ERROR (5.10).
const REFUSAL: u8 = 0x7e;
/// Asks the KDC to name another realm when it does not know the service (RFC 6806).
const CANONICALIZE: usize = 15;
/// Of the ticket for tickets.
const GRANTING: &str = "krbtgt";
/// Tickets are asked for as long as the KDC gives them.
const TILL: (u16, u8, u8, u8, u8, u8) = (2037, 9, 13, 2, 48, 5);

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// A KDC or a service says this error.
    Refused(u32),
    /// It makes no sense, or was not made with the key.
    Garbled,
}

/// A key, of AES with 256 or 128 bits as in RFC 3962.
#[derive(Clone)]
pub(super) struct Key {
    suite: CipherSuite,
    value: Vec<u8>,
}

impl Key {
    /// `None` of other encryptions.
    pub(super) fn new(etype: u8, value: Vec<u8>) -> Option<Self> {
        let suite = match CipherSuite::try_from(usize::from(etype)).ok()? {
            CipherSuite::Des3CbcSha1Kd => return None,
            suite => suite,
        };
        (suite.cipher().key_size() == value.len()).then_some(Self { suite, value })
    }

    /// A new one of the same kind.
    pub(super) fn another(&self) -> Self {
        let value = (0..self.value.len()).map(|_| rand::random()).collect();
        Self {
            suite: self.suite.clone(),
            value,
        }
    }

    pub(super) fn etype(&self) -> u8 {
        (&self.suite).into()
    }

    #[cfg(test)]
    pub(super) fn value(&self) -> &[u8] {
        &self.value
    }

    pub(super) fn encrypt(&self, usage: i32, plain: &[u8]) -> Result<Vec<u8>, Wrong> {
        let encrypted = self.suite.cipher().encrypt(&self.value, usage, plain);
        encrypted.map_err(|_| Wrong::Garbled)
    }

    pub(super) fn decrypt(&self, usage: i32, encrypted: &[u8]) -> Result<Vec<u8>, Wrong> {
        // It would count below 0 at what is no longer than a checksum.
        if encrypted.len() < MESSAGE_BYTES_MIN {
            return Err(Wrong::Garbled);
        }
        let plain = self.suite.cipher().decrypt(&self.value, usage, encrypted);
        plain.map_err(|_| Wrong::Garbled)
    }

    pub(super) fn checksum(&self, usage: i32, of: &[u8]) -> Result<Vec<u8>, Wrong> {
        let hasher = self.suite.cipher().checksum_type().hasher();
        hasher.checksum(&self.value, usage, of).map_err(|_| Wrong::Garbled)
    }

    fn of_message(key: &EncryptionKey) -> Result<Self, Wrong> {
        let EncryptionKey { key_type, key_value } = key;
        let etype = u8::try_from(number(key_type)?).map_err(|_| Wrong::Garbled)?;
        Self::new(etype, key_value.0.0.clone()).ok_or(Wrong::Garbled)
    }

    pub(super) fn message(&self) -> EncryptionKey {
        EncryptionKey {
            key_type: integer(u32::from(self.etype())).into(),
            key_value: OctetStringAsn1(self.value.clone()).into(),
        }
    }
}

/// A confounder and a checksum.
const MESSAGE_BYTES_MIN: usize = 28;

/// A ticket, and the key that goes with it.
#[derive(Clone)]
pub(super) struct Ticket {
    sealed: Sealed,
    key: Key,
    client: PrincipalName,
    client_realm: GeneralStringAsn1,
    service: Vec<String>,
    from_unix_seconds: i64,
    until_unix_seconds: i64,
}

impl Ticket {
    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Whether less than half of its life is over.
    pub(super) fn is_young(&self, unix_seconds: i64) -> bool {
        unix_seconds - self.from_unix_seconds < self.until_unix_seconds - unix_seconds
    }

    /// The realm to ask instead, if it is a ticket for another one's.
    pub(super) fn referral(&self) -> Option<String> {
        match &self.service[..] {
            [first, realm] if first == GRANTING => Some(realm.clone()),
            _ => None,
        }
    }

    /// A request of a service with it (5.5.1).
    pub(super) fn request(&self, usage: i32, is_mutual: bool, said: Said, unix_micros: i64) -> Result<Vec<u8>, Wrong> {
        let (cksum, subkey, seq_number) = match said {
            Said::ToKdc(cksum) => (cksum, None, None),
            Said::ToService {
                cksum,
                subkey,
                sequence,
            } => (cksum, Some(subkey.message()), Some(integer(sequence))),
        };
        let authenticator: Authenticator = ApplicationTag(AuthenticatorInner {
            authenticator_vno: integer(VERSION).into(),
            crealm: self.client_realm.clone().into(),
            cname: self.client.clone().into(),
            cksum: Optional(Some(ExplicitContextTag3(cksum))),
            cusec: micros(unix_micros).into(),
            ctime: time(unix_micros)?.into(),
            subkey: Optional(subkey.map(ExplicitContextTag6)),
            seq_number: Optional(seq_number.map(ExplicitContextTag7)),
            authorization_data: Optional(None),
        });
        let mut options = BitString::with_len(32);
        options.set(2, is_mutual);
        let request: ApReq = ApplicationTag(ApReqInner {
            pvno: integer(VERSION).into(),
            msg_type: integer(AP_REQ_MSG_TYPE).into(),
            ap_options: BitStringAsn1(options).into(),
            ticket: self.sealed.clone().into(),
            authenticator: sealed(&self.key, usage, &encoded(&authenticator)?)?.into(),
        });
        encoded(&request)
    }
}

/// What a request with a ticket says besides.
pub(super) enum Said<'a> {
    /// The sum of what is asked.
    ToKdc(Checksum),
    /// How to go on.
    ToService {
        /// What is wanted.
        cksum: Checksum,
        /// Key of what follows.
        subkey: &'a Key,
        /// Number of the first message.
        sequence: u32,
    },
}

/// Asks for a ticket for tickets (5.4.1); the time, encrypted, shows who asks (5.2.7.2).
pub(super) fn first_request(
    principal: &Principal,
    etypes: &[u8],
    key: &Key,
    unix_micros: i64,
    nonce: u32,
) -> Result<Vec<u8>, Wrong> {
    let now = PaEncTsEnc {
        patimestamp: time(unix_micros)?.into(),
        pausec: Optional(Some(ExplicitContextTag1(micros(unix_micros)))),
    };
    let now = sealed(key, key_usages::AS_REQ_TIMESTAMP, &encoded(&now)?)?;
    let body = body(
        Some(name(NT_PRINCIPAL, principal.names())?),
        principal.realm(),
        name(NT_SRV_INST, &[GRANTING, principal.realm()])?,
        etypes,
        false,
        nonce,
    )?;
    let request: AsReq = ApplicationTag(request(AS_REQ_MSG_TYPE, &PA_ENC_TIMESTAMP, encoded(&now)?, body));
    encoded(&request)
}

/// Asks for a ticket for a service of a realm.
pub(super) fn next_request(
    granting: &Ticket,
    realm: &str,
    service: &[&str],
    unix_micros: i64,
    nonce: u32,
) -> Result<Vec<u8>, Wrong> {
    let body = body(None, realm, name(NT_SRV_HST, service)?, &[18, 17], true, nonce)?;
    let key = &granting.key;
    let cksum = Checksum {
        cksumtype: integer(u32::from(key.suite.cipher().checksum_type())).into(),
        checksum: OctetStringAsn1(
            key.checksum(key_usages::TGS_REQ_PA_DATA_AP_REQ_AUTHENTICATOR_CKSUM, &encoded(&body)?)?,
        )
        .into(),
    };
    let usage = key_usages::TGS_REQ_PA_DATA_AP_REQ_AUTHENTICATOR;
    let shown = granting.request(usage, false, Said::ToKdc(cksum), unix_micros)?;
    let request: TgsReq = ApplicationTag(request(TGS_REQ_MSG_TYPE, &PA_TGS_REQ_TYPE, shown, body));
    encoded(&request)
}

/// What a KRB-ERROR says.
pub(super) fn refusal(answer: &[u8]) -> Wrong {
    let error: Result<ApplicationTag<KrbError, KRB_ERROR_MSG_TYPE>, _> = decoded(answer);
    let code = error.and_then(|error| number(&error.0.error_code));
    match code.map(u32::try_from) {
        Ok(Ok(code)) => Wrong::Refused(code),
        _ => Wrong::Garbled,
    }
}

/// 5.9.1; that of picky-krb takes the microseconds for a time.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq, Clone)]
struct KrbError {
    pvno: ExplicitContextTag0<IntegerAsn1>,
    msg_type: ExplicitContextTag1<IntegerAsn1>,
    #[serde(default)]
    ctime: Optional<Option<ExplicitContextTag2<GeneralizedTimeAsn1>>>,
    #[serde(default)]
    cusec: Optional<Option<ExplicitContextTag3<IntegerAsn1>>>,
    stime: ExplicitContextTag4<GeneralizedTimeAsn1>,
    susec: ExplicitContextTag5<IntegerAsn1>,
    error_code: ExplicitContextTag6<IntegerAsn1>,
    #[serde(default)]
    crealm: Optional<Option<ExplicitContextTag7<GeneralStringAsn1>>>,
    #[serde(default)]
    cname: Optional<Option<ExplicitContextTag8<PrincipalName>>>,
    realm: ExplicitContextTag9<GeneralStringAsn1>,
    sname: ExplicitContextTag10<PrincipalName>,
}

fn body(
    cname: Option<PrincipalName>,
    realm: &str,
    sname: PrincipalName,
    etypes: &[u8],
    canonicalize: bool,
    nonce: u32,
) -> Result<KdcReqBody, Wrong> {
    let mut options = BitString::with_len(32);
    options.set(CANONICALIZE, canonicalize);
    let (year, month, day, hour, minute, second) = TILL;
    let till = GeneralizedTime::new(year, month, day, hour, minute, second).ok_or(Wrong::Garbled)?;
    Ok(KdcReqBody {
        kdc_options: BitStringAsn1(options).into(),
        cname: Optional(cname.map(ExplicitContextTag1)),
        realm: text(realm)?.into(),
        sname: Optional(Some(ExplicitContextTag3(sname))),
        from: Optional(None),
        till: GeneralizedTimeAsn1(till).into(),
        rtime: Optional(None),
        nonce: integer(nonce).into(),
        etype: Asn1SequenceOf(etypes.iter().map(|etype| integer(*etype)).collect()).into(),
        addresses: Optional(None),
        enc_authorization_data: Optional(None),
        additional_tickets: Optional(None),
    })
}

fn request(kind: u8, data_type: &[u8], data: Vec<u8>, body: KdcReqBody) -> KdcReq {
    let data = PaData {
        padata_type: IntegerAsn1(data_type.to_vec()).into(),
        padata_data: OctetStringAsn1(data).into(),
    };
    KdcReq {
        pvno: integer(VERSION).into(),
        msg_type: integer(kind).into(),
        padata: Optional(Some(ExplicitContextTag3(Asn1SequenceOf(vec![data])))),
        req_body: body.into(),
    }
}

fn sealed(key: &Key, usage: i32, plain: &[u8]) -> Result<EncryptedData, Wrong> {
    Ok(EncryptedData {
        etype: integer(key.etype()).into(),
        kvno: Optional(None),
        cipher: OctetStringAsn1(key.encrypt(usage, plain)?).into(),
    })
}

/// The bytes of what was encrypted with such a key.
pub(super) fn opened<'a>(data: &'a EncryptedData, key: &Key) -> Result<&'a [u8], Wrong> {
    if number(&data.etype)? != u64::from(key.etype()) {
        return Err(Wrong::Garbled);
    }
    Ok(&data.cipher.0.0)
}

pub(super) fn key_of(message: &EncryptionKey) -> Result<Key, Wrong> {
    Key::of_message(message)
}

fn name(kind: u8, parts: &[impl AsRef<str>]) -> Result<PrincipalName, Wrong> {
    let parts: Result<Vec<_>, _> = parts.iter().map(|part| text(part.as_ref())).collect();
    Ok(PrincipalName {
        name_type: integer(kind).into(),
        name_string: Asn1SequenceOf(parts?).into(),
    })
}

fn text(text: &str) -> Result<GeneralStringAsn1, Wrong> {
    let text = Ia5String::from_string(text.to_owned()).map_err(|_| Wrong::Garbled)?;
    Ok(GeneralStringAsn1(text))
}

pub(super) fn integer(number: impl Into<u32>) -> IntegerAsn1 {
    IntegerAsn1::from_bytes_be_unsigned(number.into().to_be_bytes().to_vec())
}

/// One that is not below 0.
pub(super) fn number(integer: &IntegerAsn1) -> Result<u64, Wrong> {
    let bytes = integer.as_signed_bytes_be();
    if bytes.is_empty() || bytes.len() > 8 || bytes[0] & 0x80 != 0 {
        return Err(Wrong::Garbled);
    }
    Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn micros(unix_micros: i64) -> IntegerAsn1 {
    integer(u32::try_from(unix_micros.rem_euclid(1_000_000)).unwrap_or(0))
}

pub(super) fn time(unix_micros: i64) -> Result<GeneralizedTimeAsn1, Wrong> {
    let time = jiff::Timestamp::from_microsecond(unix_micros).map_err(|_| Wrong::Garbled)?;
    let time = jiff::tz::Offset::UTC.to_datetime(time);
    let part = |part: i8| u8::try_from(part).map_err(|_| Wrong::Garbled);
    let time = GeneralizedTime::new(
        u16::try_from(time.year()).map_err(|_| Wrong::Garbled)?,
        part(time.month())?,
        part(time.day())?,
        part(time.hour())?,
        part(time.minute())?,
        part(time.second())?,
    );
    Ok(GeneralizedTimeAsn1(time.ok_or(Wrong::Garbled)?))
}

fn unix_seconds(time: &GeneralizedTimeAsn1) -> Result<i64, Wrong> {
    let part = |part: u8| i8::try_from(part).map_err(|_| Wrong::Garbled);
    let time = &time.0;
    let time = jiff::civil::DateTime::new(
        i16::try_from(time.year()).map_err(|_| Wrong::Garbled)?,
        part(time.month())?,
        part(time.day())?,
        part(time.hour())?,
        part(time.minute())?,
        part(time.second())?,
        0,
    );
    let time = time.and_then(|time| jiff::tz::Offset::UTC.to_timestamp(time));
    time.map(jiff::Timestamp::as_second).map_err(|_| Wrong::Garbled)
}

pub(super) fn encoded(message: &impl Serialize) -> Result<Vec<u8>, Wrong> {
    to_vec(message).map_err(|_| Wrong::Garbled)
}

pub(super) fn decoded<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Wrong> {
    from_bytes(bytes).map_err(|_| Wrong::Garbled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_young_in_the_first_half_of_its_life() {
        let name = || name(NT_SRV_INST, &[GRANTING, "A.ORG"]).unwrap();
        let key = Key::new(17, vec![1; 16]).unwrap();
        let ticket = Ticket {
            sealed: ApplicationTag(picky_krb::data_types::TicketInner {
                tkt_vno: integer(VERSION).into(),
                realm: text("A.ORG").unwrap().into(),
                sname: name().into(),
                enc_part: sealed(&key, 2, b"").unwrap().into(),
            }),
            key,
            client: name(),
            client_realm: text("A.ORG").unwrap(),
            service: vec![GRANTING.to_owned(), "B.ORG".to_owned()],
            from_unix_seconds: 1000,
            until_unix_seconds: 2000,
        };
        assert_eq!(ticket.referral().as_deref(), Some("B.ORG"));
        for (now, expected) in [(900, true), (1499, true), (1500, false), (2500, false)] {
            assert_eq!(ticket.is_young(now), expected, "{now}");
        }
    }

    #[test]
    fn times_and_numbers_come_back_as_they_went() {
        for seconds in [0, 951_782_400, 1_764_198_458, 4_102_444_800] {
            let there = time(seconds * 1_000_000 + 999_999).unwrap();
            assert_eq!(unix_seconds(&there), Ok(seconds));
        }
        for expected in [0, 1, 127, 128, 255, 256, u32::MAX] {
            assert_eq!(number(&integer(expected)), Ok(u64::from(expected)));
        }
        assert_eq!(number(&IntegerAsn1(vec![0xff])), Err(Wrong::Garbled), "below 0");
    }
}

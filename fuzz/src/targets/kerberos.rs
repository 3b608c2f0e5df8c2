//! What KDCs and name nodes with Kerberos send, and keytabs.

use penstock_origin::{kerberos_samples, read_kerberos};

use crate::{Target, Trying};

pub const TARGET: Target = Target {
    name: "kerberos",
    bytes_max: 4096,
    memory_max: 4 << 20,
    begin,
};

fn begin() -> Trying {
    let mut samples = kerberos_samples();
    assert_eq!(samples.len(), 5);
    // An empty keytab, and one with a hole.
    samples.extend([b"\x05\x02".to_vec(), b"\x05\x02\xff\xff\xff\xfe\x00\x00".to_vec()]);
    Trying {
        samples,
        read: Box::new(read_kerberos),
    }
}

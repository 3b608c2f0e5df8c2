//! The mount table of this process, `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Major and minor number of the file system's device; two mounts with the same numbers show the same file system.
    pub device: (u32, u32),
    /// Which folder of the file system is shown.
    pub root: PathBuf,
    /// Where it is mounted.
    pub target: PathBuf,
    /// Options of this mount, for example `ro,nosuid`.
    pub options: String,
    /// For example `erofs` or `fuse.penstock`.
    pub file_system: String,
    /// What was mounted.
    pub source: PathBuf,
}

/// All mounts, in the order in which they were made.
///
/// # Errors
/// When `/proc` is not there.
pub fn read() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// Whether something is mounted at exactly `target`. Never asks the file system that is mounted there.
///
/// # Errors
/// When `/proc` is not there.
pub fn is_mounted(target: &Path) -> io::Result<bool> {
    Ok(read()?.iter().any(|mount| mount.target == target))
}

fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ').skip(2);
    let device = std::str::from_utf8(fields.next()?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let (root, target) = (unescape(fields.next()?), unescape(fields.next()?));
    let options = String::from_utf8_lossy(fields.next()?).into_owned();
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let file_system = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next()?);
    Some(Mount {
        device: (major.parse().ok()?, minor.parse().ok()?),
        root,
        target,
        options,
        file_system,
        source,
    })
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, tail)) = rest.split_first() {
        let escaped = tail
            .get(..3)
            .filter(|digits| *byte == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match escaped {
            Some(digits) => {
                out.push(
                    digits
                        .iter()
                        .fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')),
                );
                rest = &tail[3..];
            }
            None => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_and_without_optional_fields_is_understood() {
        let text = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n\
                     40 35 0:50 / /a ro - fuse.penstock penstock rw\n\nnonsense\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].target, Path::new("/mnt 2"));
        assert_eq!((mounts[0].device, mounts[0].file_system.as_str()), ((98, 0), "ext3"));
        assert_eq!(
            (mounts[1].device, mounts[1].source.as_path()),
            ((0, 50), Path::new("penstock"))
        );
    }

    #[test]
    fn the_table_of_this_process_has_a_root() {
        assert!(is_mounted(Path::new("/")).unwrap());
        assert!(!is_mounted(Path::new("/nothing/here")).unwrap());
    }
}

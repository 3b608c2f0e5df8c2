//! The tools of EROFS accept what we write.

use std::process::Command;

use crate::mounted::Mounted;

/// Panics unless `fsck.erofs` has nothing to say and `dump.erofs` reads the superblock.
pub fn assert_accepted(mounted: &Mounted) {
    let with_devices = |tool: &str| {
        let mut command = Command::new(tool);
        command.args(
            mounted
                .devices()
                .iter()
                .map(|device| format!("--device={}", device.display())),
        );
        command.arg(mounted.image());
        command
    };
    // From level 3 on it also says that all is well.
    let said = output(with_devices("fsck.erofs").arg("-d3"));
    assert!(said.contains("No errors found"), "fsck.erofs says: {said}");
    assert!(
        !said.contains("<W>") && !said.contains("<E>"),
        "fsck.erofs says: {said}"
    );
    let said = output(with_devices("dump.erofs").arg("-s"));
    assert!(said.contains("0xE0F5E1E2"), "dump.erofs says: {said}");
    assert!(
        !said.contains("<W>") && !said.contains("<E>"),
        "dump.erofs says: {said}"
    );
}

/// What the tool said on both ways out; panics unless it ended well.
pub fn output(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?} cannot be run ({error}): install Debian's erofs-utils"));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(
        output.status.success(),
        "{command:?} ended with {}: {said}",
        output.status
    );
    said
}

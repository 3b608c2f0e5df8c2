//! How folders and who reads them are called in sentences for people, who see the Dataset and not this process.

use penstock_origin::folder::Words;
use rustix::process::{getegid, geteuid, getgroups};

/// The words for a folder of the volume that is called `place`.
pub(crate) fn words(place: &str, folder: &str) -> Words {
    let mut user = format!("user {} and group {}", geteuid().as_raw(), getegid().as_raw());
    let groups: Vec<String> = getgroups()
        .unwrap_or_default()
        .iter()
        .map(|group| group.as_raw().to_string())
        .collect();
    if !groups.is_empty() {
        user += &format!(" (and {})", groups.join(", "));
    }
    Words {
        place: format!("{place}/{folder}"),
        user,
        remedy:
            "set uid, gid or supplementalGroups of the source to those of who may read its files and enter its folders"
                .to_owned(),
    }
}

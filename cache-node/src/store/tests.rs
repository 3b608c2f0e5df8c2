//! A store as a whole: opening, storing, evicting, and what a crash leaves.

use std::fs::OpenOptions;

use super::*;

const SPACE: SpaceId = SpaceId([1; 16]);
const BLOCK: usize = BLOCK_BYTES as usize;
const OPEN_STRIPES: usize = 64;

fn store_in(folder: &Path, capacity_bytes: u64) -> Store {
    let tier = TierConfig {
        name: "ssd".into(),
        path: folder.into(),
        capacity_bytes: Some(capacity_bytes),
    };
    Store::open(tier, OPEN_STRIPES, Box::new(|_, _, _| {})).unwrap()
}

/// Stores the first `blocks` blocks of a stripe.
fn fill(store: &Store, space: SpaceId, stripe: u64, blocks: usize) -> Result<(), NotStored> {
    let range = BlockRange::new(stripe << 26, (blocks * BLOCK) as u64).unwrap();
    store.store(&space, range, &vec![7; blocks * BLOCK], &vec![7; blocks])
}

#[test]
fn a_stripe_that_somebody_has_is_not_opened_twice() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path(), 1 << 40);
    fill(&store, SPACE, 0, 1).unwrap();
    let held = store.stripe(&SPACE, 0).unwrap();
    for number in 1..=OPEN_STRIPES as u64 + 1 {
        fill(&store, SPACE, number, 1).unwrap();
    }
    assert!(Arc::ptr_eq(&held, &store.stripe(&SPACE, 0).unwrap()));
    assert!(read(&store.open).len() <= OPEN_STRIPES);
}

#[test]
fn a_removed_space_stays_removed_whatever_is_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path(), 1 << 40);
    for _ in 0..50 {
        store.keep_only(None);
        fill(&store, SPACE, 0, 1).unwrap();
        let removing = std::sync::Barrier::new(3);
        std::thread::scope(|scope| {
            for number in 0..2 {
                let (store, removing) = (&store, &removing);
                scope.spawn(move || {
                    removing.wait();
                    // Until it is refused.
                    (0..).find(|step| fill(store, SPACE, 2 * step + number, 1).is_err())
                });
            }
            removing.wait();
            store.keep_only(Some(HashSet::new()));
        });
        assert_eq!(store.spaces(), []);
        assert_eq!(fs::read_dir(&store.folder).unwrap().count(), 0, "the folder is back");
    }
}

#[test]
fn a_space_whose_folder_is_gone_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path(), 1 << 40);
    fill(&store, SPACE, 0, 4).unwrap();
    let held = store.stripe(&SPACE, 0).unwrap();
    fs::remove_dir_all(store.folder.join(SPACE.to_string())).unwrap();
    store.keep_only(Some(HashSet::new()));
    assert_eq!((store.spaces(), store.report().used_bytes), (vec![], 0));
    store.evict(&SPACE, 0, 0);
    drop(held);
    assert!(store.punch());
    assert_eq!(
        (store.spaces(), store.report().used_bytes),
        (vec![], 0),
        "blocks of it were evicted"
    );
}

#[test]
fn a_removed_space_takes_no_disk_even_if_somebody_has_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path(), 1 << 40);
    fill(&store, SPACE, 0, 4).unwrap();
    let handed_over = store.stripe(&SPACE, 0).unwrap().files().unwrap();
    store.keep_only(Some(HashSet::new()));
    assert_eq!(handed_over.map(|file| file.metadata().unwrap().blocks()), [0, 0]);
}

/// Stores cells of these blocks of a stripe.
fn fill_cells(store: &Store, cells: impl IntoIterator<Item = Range<u64>>) {
    for cell in cells {
        let blocks = (cell.end - cell.start) as usize;
        let range = BlockRange::new(cell.start * BLOCK_BYTES, (blocks * BLOCK) as u64).unwrap();
        store
            .store(&SPACE, range, &vec![7; blocks * BLOCK], &vec![7; blocks])
            .unwrap();
    }
}

fn disk_bytes(store: &Store, file: &str) -> u64 {
    fs::metadata(store.folder.join(SPACE.to_string()).join(file))
        .unwrap()
        .blocks()
        * 512
}

#[test]
fn what_was_stored_as_one_is_evicted_as_one_also_after_a_restart() {
    // On a disk, unlike /tmp of many machines.
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let store = store_in(folder.path(), 1 << 40);
    fill_cells(&store, [0..3, 10..37, 3..10, 250..256, 256..300]);
    let before = disk_bytes(&store, "0.data");
    assert_eq!(store.evict(&SPACE, 0, 20), Some(10..37));
    assert_eq!(store.evict(&SPACE, 0, 20), Some(20..20), "it is gone");
    assert!(store.punch());
    assert_eq!(disk_bytes(&store, "0.data"), before - 27 * BLOCK_BYTES);
    drop(store);

    let (found, cells) = std::sync::mpsc::channel();
    let tier = TierConfig {
        name: "ssd".into(),
        path: folder.path().into(),
        capacity_bytes: Some(1 << 40),
    };
    let tell: Found = Box::new(move |space, stripe, cells| {
        cells.for_each(|cell| found.send((*space, stripe, cell)).unwrap());
    });
    let store = Store::open(tier, OPEN_STRIPES, tell).unwrap();
    assert_eq!(store.unknown_stripes(), [(SPACE, 0)]);
    // As if the process had ended between an eviction and its hole.
    let data = folder.path().join(format!("v1/{SPACE}/0.data"));
    let data = OpenOptions::new().write(true).open(data).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&data, &[1; 40 * BLOCK], 400 * BLOCK_BYTES).unwrap();
    store.stripe(&SPACE, 0).unwrap();
    assert!(store.punch());
    assert_eq!(disk_bytes(&store, "0.data"), before - 27 * BLOCK_BYTES);
    assert_eq!(store.unknown_stripes(), []);
    let cells: Vec<_> = cells.try_iter().collect();
    assert_eq!(cells, [0..3, 3..10, 250..256, 256..300].map(|cell| (SPACE, 0, cell)));
    assert_eq!(store.spaces(), [(SPACE, 60 * BLOCK_BYTES)]);
}

#[test]
fn the_place_of_a_cell_is_not_given_away_while_it_is_sent_and_not_after_it_was_stored_again() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let store = store_in(folder.path(), 1 << 40);
    fill_cells(&store, Some(0..20));
    let full = disk_bytes(&store, "0.data");
    let range = BlockRange::new(0, 20 * BLOCK_BYTES).unwrap();
    let sent = store.stripe(&SPACE, 0).unwrap().stored(range).unwrap();
    assert_eq!(store.evict(&SPACE, 0, 5), Some(0..20));
    assert!(!store.punch(), "somebody sends it");
    assert!(
        store.stripe(&SPACE, 0).unwrap().stored(range).is_none(),
        "nobody else begins to"
    );
    assert_eq!(disk_bytes(&store, "0.data"), full);
    fill_cells(&store, Some(5..10));
    drop(sent);
    assert!(store.punch());
    assert_eq!(disk_bytes(&store, "0.data"), 5 * BLOCK_BYTES);
    assert_eq!(store.spaces(), [(SPACE, 5 * BLOCK_BYTES)]);
}

#[test]
fn a_stripe_of_which_nothing_is_left_has_no_files_unless_somebody_reads_it() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let store = store_in(folder.path(), 1 << 40);
    fill_cells(&store, Some(0..20));
    let files = || fs::read_dir(store.folder.join(SPACE.to_string())).unwrap().count();
    let held = store.stripe(&SPACE, 0).unwrap();
    store.evict(&SPACE, 0, 0);
    assert!(store.punch());
    assert_eq!(files(), 2);
    drop(held);
    fill_cells(&store, Some(0..20));
    store.evict(&SPACE, 0, 0);
    assert!(store.punch());
    assert_eq!((files(), store.spaces()), (0, vec![]));
    assert!(matches!(store.known(&SPACE, 0), Known::Absent));
    fill_cells(&store, Some(3..4));
    assert_eq!(store.spaces(), [(SPACE, BLOCK_BYTES)]);
}

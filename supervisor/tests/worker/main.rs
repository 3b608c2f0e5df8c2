//! Workers for the tests of the supervisor.

use std::fs;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use penstock_supervisor::Store;

fn main() {
    let folder = PathBuf::from(std::env::var_os("PENSTOCK_TEST_FOLDER").expect("started by a test"));
    let lives = folder.join("lives");
    let mut file = fs::File::options().append(true).create(true).open(&lives).unwrap();
    writeln!(file, "{}", std::process::id()).unwrap();
    let life = fs::read_to_string(lives).unwrap().lines().count();
    match std::env::args().nth(1).as_deref() {
        Some("keep-a-file") => {
            let found = keep_a_file(life);
            fs::write(folder.join(format!("done-{life}")), found).unwrap();
        }
        Some("hang-once") => hang_once(life),
        other => panic!("no worker {other:?}"),
    }
    loop {
        std::thread::park();
    }
}

/// The first life keeps a file without a name, the third lets go of it; what was found is returned.
fn keep_a_file(life: usize) -> String {
    let (store, entries) = Store::of_this_process().unwrap();
    let mut found = String::new();
    for entry in entries {
        assert_eq!((entry.id, entry.state.as_slice()), ([1; 16], &b"state"[..]));
        let mut file = fs::File::from(entry.descriptors.into_iter().next().unwrap());
        file.rewind().unwrap();
        file.read_to_string(&mut found).unwrap();
    }
    match life {
        1 => {
            let mut file = tempfile::tempfile().unwrap();
            write!(file, "content of life 1").unwrap();
            store.keep([1; 16], b"state".to_vec(), &[file.as_fd()]);
        }
        3 => store.forget([1; 16]),
        _ => {}
    }
    found
}

fn hang_once(life: usize) {
    let (store, _) = Store::of_this_process().unwrap();
    if life == 1 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let once = async { tokio::time::timeout(Duration::from_millis(10), store.stay_alive()).await };
        assert!(runtime.block_on(once).is_err());
    }
}

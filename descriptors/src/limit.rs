//! How many descriptors this process may have.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As many as it may have now.
pub fn now() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Takes as many as the kernel gives, and says how many: the soft limit is for programs that use select(2).
///
/// # Errors
/// When the kernel refuses; [`now`] says what there is.
pub fn raise() -> io::Result<u64> {
    let Rlimit { current: _, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised)?;
    Ok(now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let before = getrlimit(Resource::Nofile);
        let low = Rlimit {
            current: Some(before.maximum.unwrap_or(4096) / 2),
            ..before
        };
        setrlimit(Resource::Nofile, low).unwrap();
        assert_eq!(Some(now()), low.current);
        assert_eq!(raise().unwrap(), before.maximum.unwrap_or(u64::MAX));
        assert_eq!(now(), before.maximum.unwrap_or(u64::MAX));
    }
}

//! What a revision looks like from outside: to the kernel, to the tools of EROFS, to the next revision and to somebody who
//! sends damaged bytes. Needs root and a kernel that mounts EROFS from regular files; without them it fails.

mod bugs;
mod hostile;
mod kernel;
mod large;
mod model;
mod mounted;
mod refresh;
mod spilled;
mod tools;

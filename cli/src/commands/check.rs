//! `penstock check`.

use std::fmt::Write;

use anyhow::{Result, bail};
use penstock_origin::{Contact, Origin, OriginError};

use crate::args::Which;
use crate::dataset_file::DatasetFile;
use crate::{local, out};

/// Tries each source and prints what it showed of itself.
///
/// # Errors
/// When one cannot be used; the others are tried all the same.
pub async fn run(which: Which) -> Result<()> {
    let dataset = DatasetFile::read(&which)?.local()?;
    let mut failed = 0;
    for local::Source { path, origin } in &dataset.sources {
        let tried = penstock_origin::contact(&**origin).await;
        failed += usize::from(tried.is_err());
        out::print(&line(path, &**origin, tried))?;
    }
    if failed > 0 {
        bail!("{failed} of {} sources cannot be used", dataset.sources.len());
    }
    Ok(())
}

fn line(path: &str, origin: &dyn Origin, tried: Result<Contact, OriginError>) -> String {
    let at = format!("/{path}");
    let Contact {
        objects,
        is_all,
        read,
        listed_after,
        read_after,
    } = match tried {
        Ok(contact) => contact,
        Err(error) => return format!("FAILED  {at}  {error}\n"),
    };
    let more = if is_all { "" } else { " and more" };
    let mut line = format!(
        "ok      {at}  {}: {objects} objects{more}, listed in {} ms",
        origin.place(),
        listed_after.as_millis()
    );
    if let Some(read) = read {
        // Writing to a String cannot fail.
        let _ = write!(
            line,
            "; a range of {:?} in {} ms, {}",
            read.key,
            read_after.as_millis(),
            penstock_origin::proof(&read)
        );
    }
    line + "\n"
}

//! How many requests the listing of a bucket costs beside the fewest, for several forms of keys; the server counts them.

use anyhow::Result;
use penstock_origin::Origin;
use penstock_origin::fake_bucket::{Bucket, PAGE_OBJECTS};

use crate::figure::{Figure, Goal, Reference};

/// Pages of each listing, as many as a bucket of 400,000 objects has in S3.
const PAGES: usize = 400;

/// All listings together.
///
/// # Errors
/// When one fails.
pub fn figures(runtime: &tokio::runtime::Runtime) -> Result<Vec<Figure>> {
    let forms: [fn(usize) -> String; 4] = [
        |number| format!("n{:04}/n{number:08}.JPEG", number % 97),
        |number| format!("year=2026/month={:02}/part-{number:05}.parquet", number % 12 + 1),
        |number| format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        |number| format!("one/folder/{number}"),
    ];
    let mut requests = 0;
    for form in forms {
        let keys: Vec<String> = (0..PAGES * PAGE_OBJECTS).map(form).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        requests += runtime.block_on(async {
            let bucket = Bucket::with(&keys).await;
            let listed = bucket.origin("").list_all().await?.len();
            anyhow::ensure!(listed == keys.len(), "{listed} objects of {} were listed", keys.len());
            Ok(bucket.asked())
        })?;
    }
    Ok(vec![Figure {
        name: "listing-requests".into(),
        value: requests as f64,
        unit: "requests",
        reference: Some(Reference {
            name: "fewest",
            value: (PAGES * forms.len()) as f64,
        }),
        goals: vec![Goal::RatioAtMost(1.1)],
    }])
}

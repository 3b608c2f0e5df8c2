//! The tree that a person is shown of a running node.

use penstock_cache_node::limits::INSPECTIONS_MAX;
use penstock_protocol::control::cache_node as wire;
use tonic::{Code, Status};

use crate::inspecting::Two;

/// What a path has, and whether the list came to its end.
async fn entries(two: &Two, dataset: &str, path: &str) -> Result<(Vec<String>, bool), Status> {
    let request = wire::EntriesRequest {
        dataset: dataset.into(),
        path: path.into(),
        is_recursive: true,
    };
    let mut parts = two.client.clone().entries(request).await?.into_inner();
    let (mut shown, mut is_done) = (Vec::new(), false);
    while let Some(part) = parts.message().await? {
        assert_eq!(part.revision.len(), 32);
        is_done |= part.is_done;
        shown.extend(
            part.entries
                .into_iter()
                .map(|entry| format!("{} {}", entry.path, entry.bytes)),
        );
    }
    Ok((shown, is_done))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_shown_to_its_end_and_what_is_not_there_is_said() {
    let two = Two::with(4 << 20, &[1 << 30]).await;
    let all = ["labels 9000", "train 0", "train/a 300000", "train/b 5000"];
    assert_eq!(
        entries(&two, "n/small", "").await.unwrap(),
        (all.map(str::to_owned).into(), true)
    );
    assert_eq!(entries(&two, "n/small", "train").await.unwrap().0, all[2..]);
    for (dataset, path, said) in [
        ("n/none", "", "was not told of a Dataset \"n/none\""),
        ("n/small", "trains", "has no \"trains\"; it has \"labels\", \"train\""),
    ] {
        let refused = entries(&two, dataset, path).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        assert!(refused.message().contains(said), "{refused:?}");
    }
    // Whoever goes away in the middle keeps nobody from looking.
    for _ in 0..=INSPECTIONS_MAX {
        let request = wire::EntriesRequest {
            dataset: "n/small".into(),
            ..Default::default()
        };
        drop(two.client.clone().entries(request).await.unwrap());
    }
    assert!(entries(&two, "n/large", "").await.unwrap().1);
}

//! Stores that are refused: the message says what is wrong and what to do, and nothing is started empty.

use crate::node::{Node, web};
use std::fs;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_weir_on_the_same_store_is_refused_by_name() {
    let mut node = Node::new("twice", "stop", &web(1));
    node.start().await;
    let before = node.settled("web", 1).await;
    let mut other = Node::new("twice-second", "stop", &web(1));
    other.state = node.state.clone();
    other.configure(&web(1));
    let second = other.second().await;
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.err.contains("weir.redb is in use by process"), "{second:?}");
    assert!(node.own().iter().any(|pid| second.err.contains(&format!("process {pid}:"))), "{second:?}");
    assert_eq!(node.settled("web", 1).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_store_is_refused_and_the_copy_of_the_last_start_helps() {
    let mut node = Node::new("damaged", "keep", &web(2));
    node.start().await;
    let before = node.settled("web", 2).await;
    // The next start copies what there is now.
    node.kill().await;
    node.start().await;
    node.kill().await;
    let store = node.state.join("weir.redb");
    let whole = fs::read(&store).unwrap();
    let damages: [(&str, Vec<u8>); 3] =
        [("empty", Vec::new()), ("truncated", whole[..whole.len() / 2].to_vec()), ("garbage", b"notes ".repeat(9000))];
    for (what, bytes) in damages {
        fs::write(&store, &bytes).unwrap();
        let refused = node.second().await;
        assert_eq!(refused.code, 1, "{what}: {refused:?}");
        for part in ["weir.redb is damaged", "weir.redb.last", "move it away"] {
            assert!(refused.err.contains(part), "{what}: {part} is not in {refused:?}");
        }
        assert_eq!(node.replicas(), before, "{what}: replicas are left alone");
    }
    fs::copy(node.state.join("weir.redb.last"), &store).unwrap();
    node.start().await;
    assert_eq!(node.settled("web", 2).await, before);
    assert_eq!(node.replicas(), before);
}

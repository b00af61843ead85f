//! The same query, the same rows: a part of what `--bin queries` runs. `DATASYNC_QUERIES` says how many.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use datasync_tests::queries::run;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_indexed_and_remote_queries_give_the_same_rows_in_the_same_order() {
    let queries = std::env::var("DATASYNC_QUERIES").ok().and_then(|count| count.parse().ok()).unwrap_or(1_000);
    let report = run(queries, 7, 50).await.unwrap();
    println!("{:?}", report.ways);
    assert!(report.differences.is_empty(), "{} differ: {:#?}", report.differences.len(), report.differences);
    assert_eq!(report.answered + report.refused, queries);
    assert!(report.refused > 0 && report.over_a_socket > 0 && report.rows > report.answered, "{report:?}");
    assert!(report.ways.len() > 8, "every kind of way is taken: {:?}", report.ways);
}

//! What pulls bring, and what they ask for.

use std::sync::{Arc, Mutex};

use datasync_core::{
    client::{OfflineTable, PullOptions, Tables},
    config::ConflictPolicy,
    error::ErrorKind,
    query::Query,
    store::Store,
};
use datasync_server::Repository;
use datasync_tests::{Fault, Wire, note_of};
use futures::future::join_all;

use crate::{Differences, Movie, cases, movies, world};

async fn pulls_bring_what_those_of_ct_bring(wire: Wire) {
    let Some(all) = cases("sync_cases.json") else { return };
    for case in all["pull_integration_ct"]["cases"].as_array().unwrap() {
        let Some((client, _, rows)) = movies(wire, 1).await else { return };
        let table = client.offline_table::<Movie>();
        let expected = case["expected"]["rows"].as_u64();
        match case["test"].as_str().unwrap() {
            "PullAsync_ViaDbSet_Works" => drop(table.pull_items(table.query()).await.unwrap()),
            "PullAsync_ViaContext_Works" => drop(client.pull_tables(Tables::all()).await.unwrap()),
            "PullAsync_ViaConfigurator_Works" => {
                let pulls = case["requests"].as_array().unwrap().iter().map(|request| {
                    let query: Query<Movie> =
                        format!("$filter={}", request["where"].as_str().unwrap()).parse().unwrap();
                    let options = PullOptions::default().query(query).query_id(request["queryId"].as_str().unwrap());
                    table.pull_items(options)
                });
                assert!(join_all(pulls).await.iter().all(Result::is_ok));
            }
            "PullAsync_WithLocalData_Works" => {
                let sync = async || {
                    table.push_items().await.unwrap();
                    table.pull_items(table.query()).await.unwrap();
                    table.get("id-010").await.unwrap().unwrap()
                };
                let first = sync().await;
                table.replace(Movie { shelf: 5, ..first }).await.unwrap();
                let kept = sync().await;
                table.replace(Movie { title: "another".to_owned(), ..kept.clone() }).await.unwrap();
                let changed = sync().await;
                assert_eq!((kept.shelf, changed.shelf, changed.title.as_str()), (5, 5, "another"));
                let there = rows.read("id-010").await.unwrap().unwrap().record.body;
                let there: serde_json::Value = serde_json::from_slice(there.as_bytes()).unwrap();
                assert!(there["title"] == "another" && there.get("shelf").is_none());
            }
            complex if complex.contains("PushAsync_Complex_Situation") => continue,
            other => panic!("a case `{other}`"),
        }
        assert!(expected.is_none_or(|expected| expected == table_count(&table)), "{case}");
    }
}

fn table_count(table: &OfflineTable<Movie>) -> u64 {
    futures::executor::block_on(table.count()).unwrap()
}

/// Two pulls share a token where those of the originals share its key.
async fn queries_have_tokens_of_their_own_as_in_the_originals(wire: Wire) {
    let Some(all) = cases("sync_cases.json") else { return };
    let mut differences = Differences::new(&[(
        "ct: a query id with an empty query",
        "who names a query has a token of that name: it is not left out silently",
    )]);
    for of in ["ct", "azure"] {
        let mut keys: Vec<(String, String)> = Vec::new();
        for case in all["query_ids"][of].as_array().unwrap() {
            let Some((client, store, _)) = movies(wire, 1).await else { return };
            let table = client.offline_table::<Movie>();
            let text = case["query"].as_str().unwrap().replace("anything", "$filter=year gt 1990");
            let address = url::Url::parse(&format!("http://service?{text}")).unwrap();
            let options = address.query_pairs().map(|(name, value)| format!("{name}={value}"));
            let text = options.collect::<Vec<_>>().join("&");
            let mut options = PullOptions::default().query(text.parse::<Query<Movie>>().unwrap());
            if let Some(id) = case["queryId"].as_str() {
                options = options.query_id(id);
            }
            table.pull_items(options).await.unwrap();
            let [scope] = store.scopes("", "movie").await.unwrap().try_into().unwrap();
            assert!(store.delta_token(&scope).await.unwrap().is_some());
            keys.push((case["key"].as_str().unwrap().to_owned(), scope.scope.to_string()));
        }
        for (place, (theirs, ours)) in keys.iter().enumerate() {
            for (other_theirs, other_ours) in &keys[..place] {
                if (theirs == other_theirs) != (ours == other_ours) {
                    differences.expect(&format!("{of}: a query id with an empty query"));
                }
            }
        }
    }
    differences.end();
}

/// With one operation under way at once, and with eight.
async fn the_complex_situation_of_ct(wire: Wire) {
    for parallel in [1, 8] {
        the_complex_situation(wire, parallel).await;
    }
}

async fn the_complex_situation(wire: Wire, parallel: usize) {
    let (Some(all), Some(data)) = (cases("sync_cases.json"), cases("movies.json")) else { return };
    let Some((client, _, rows)) = movies(wire, parallel).await else { return };
    let steps = all["pull_integration_ct"]["cases"].as_array().unwrap();
    let steps = &steps.iter().find(|case| case["steps"].is_array()).unwrap()["steps"];
    let table = client.offline_table::<Movie>();

    let pulled = table.pull_items(table.query()).await.unwrap();
    assert_eq!(Some(pulled.inserted), steps[0]["expected"]["additions"].as_u64());
    let mut added: Movie = serde_json::from_value(data["extraMovies"]["BlackPanther"].clone()).unwrap_or(Movie {
        id: String::new(),
        title: "Black Panther".to_owned(),
        duration: 134,
        rating: "PG13".to_owned(),
        release_date: "2018-02-16".to_owned(),
        best_picture_winner: true,
        year: 2018,
        shelf: 0,
    });
    added.id = "added-here".to_owned();
    table.insert(added).await.unwrap();
    let long = table.query().filter(|movie| movie.duration.gt(180)).to_vec().await.unwrap();
    assert_eq!(Some(long.len() as u64), steps[2]["count"].as_u64());
    for movie in long {
        table.delete(&movie.id).await.unwrap();
    }
    let unrated = table.query().filter(|movie| movie.rating.eq("Unrated")).to_vec().await.unwrap();
    assert_eq!(Some(unrated.len() as u64), steps[3]["count"].as_u64());
    for movie in unrated {
        let title = format!("{:>45}", movie.title);
        table.replace(Movie { rating: "NC17".to_owned(), title, ..movie }).await.unwrap();
    }
    assert_eq!(Some(client.pending().await.unwrap().len() as u64), steps[4]["queue"]["total"].as_u64());
    let pushed = client.push_tables(Tables::all()).await.unwrap();
    assert_eq!(Some(pushed.pushed), steps[5]["expected"]["completedOperations"].as_u64());
    assert!(client.pending().await.unwrap().is_empty());

    let pulled = table.pull_items(table.query()).await.unwrap();
    assert_eq!(pulled.inserted + pulled.removed, 0);
    // Difference: what was pushed comes back there as 73 replacements; a version that is here already changes nothing.
    assert_eq!((steps[6]["expected"]["replacements"].as_u64(), pulled.updated), (Some(73), 0));
    assert_eq!(table.count().await.unwrap(), rows.rows().len() as u64);
}

async fn pulls_do_what_those_of_ct_do(wire: Wire) {
    let Some(cases) = cases("sync_cases.json") else { return };
    let mut differences = Differences::new(&[
        (
            "PullAsync_List_Works_InitialSync",
            "the pages follow the service's order in as many requests, or a keyset, and never `$skip`",
        ),
        ("PullAsync_List_FailedRequest", "a failed request is an error of the pull, not a count in its report"),
        ("PullAsync_List_PendingRequests", "pending changes are pushed first, and whatever becomes of them it goes on"),
    ]);
    for case in cases["pull_unit_ct"]["cases"].as_array().unwrap() {
        let world = world(wire, ConflictPolicy::Park).await;
        let name = case["test"].as_str().unwrap();
        for number in 0..20 {
            world.elsewhere(&format!("row-{number:02}"), Some("theirs")).await;
        }
        match name {
            "PullAsync_List_Works_InitialSync" => {
                let asked = Arc::new(Mutex::new(Vec::new()));
                let log = Arc::clone(&asked);
                world.exchange.before(move |request| log.lock().unwrap().push(request.url.to_string()));
                let report = world.table.pull_items(PullOptions::default().page_size(5)).await.unwrap();
                assert_eq!(Some(report.inserted), case["expected"]["additions"].as_u64());
                let asked = asked.lock().unwrap().clone();
                assert!(asked.iter().all(|url| !url.contains("$skip")));
                let pages = asked.iter().filter(|url| url.contains('?')).count();
                // Without the extensions rows of one time are the worst case: rows without one, two pages that bring the same
                // stamp only, its window in five pages, and the end.
                let expected = if wire.extended() { case["expected"]["requests"].as_u64().unwrap() } else { 9 };
                assert_eq!(pages as u64, expected);
                differences.expect(name);
            }
            "PullAsync_List_Works_DoesntAddDeletions" => {
                world.deleted_elsewhere("row-07").await;
                let report = world.table.pull_items(world.table.query()).await.unwrap();
                assert_eq!((report.inserted, report.removed), (19, 0), "a deleted row that was never here is no row");
            }
            "PullAsync_List_FailedRequest" => {
                world.exchange.fault(|request| request.url.path().ends_with("/note"), Fault::Status(400));
                let error = world.table.pull_items(world.table.query()).await.unwrap_err();
                assert_eq!((error.kind(), world.table.count().await.unwrap()), (ErrorKind::Service, 0));
                differences.expect(name);
            }
            "PullAsync_List_PendingRequests" => {
                world.table.insert(note_of("mine", "x")).await.unwrap();
                let report = world.table.pull_items(world.table.query()).await.unwrap();
                assert_eq!(report.inserted, 20);
                assert!(world.client.pending().await.unwrap().is_empty());
                differences.expect(name);
            }
            other => panic!("a case `{other}`"),
        }
    }
    differences.end();
}

datasync_tests::on_both_wires! {
    pulls_bring_what_those_of_ct_bring
    the_complex_situation_of_ct
    pulls_do_what_those_of_ct_do
    queries_have_tokens_of_their_own_as_in_the_originals
}

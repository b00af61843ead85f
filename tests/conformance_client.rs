//! The queries of the reference: their text, and their local answers. They are read from the folder that
//! `DATASYNC_CONFORMANCE_DIR` names.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

#[path = "../examples/conformance-client/local.rs"]
mod local;
#[path = "../examples/conformance-client/translate.rs"]
mod translate;

use std::{collections::BTreeMap, path::PathBuf};

use datasync::query::{Dialect, Expr, Literal, QueryDescription};
use local::Local;
use serde_json::{Value, json};

/// The folder of the cases, or `None` with a word about it.
fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("DATASYNC_CONFORMANCE_DIR").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: DATASYNC_CONFORMANCE_DIR is not set");
    }
    folder
}

fn cases(folder: &std::path::Path, name: &str) -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

/// Whole numbers without the `L` that the reference's parser adds.
fn without_suffix(text: &str) -> String {
    let mut plain = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        plain.push(c);
        if c.is_ascii_digit() && chars.peek() == Some(&'L') {
            chars.next();
        }
    }
    plain
}

/// Where the text that we write is another one, and why.
const WRITTEN_OTHERWISE: [(&str, &str); 1] =
    [("u8", "the reference writes a byte in hexadecimal, which no service reads")];

/// What the reference's translators refuse, as near to it as a query string comes: we refuse it too.
const REFUSED: [(&str, &str); 12] = [
    ("OrderBy(m => m.IntValue % 7)", "$orderby=intValue mod 7"),
    ("OrderByDescending(m => m.IntValue % 7)", "$orderby=(intValue mod 7) desc"),
    ("LongCount", "$filter=longcount(byteArrayValue) gt 0"),
    ("Sqrt", "$filter=sqrt(doubleValue) eq 4.0"),
    ("Microsecond", "$filter=microsecond(dateTimeOffsetValue) gt 0"),
    ("LastIndexOf", "$filter=lastindexof(title,'er') gt 0"),
    ("xor", "$filter=(year xor 1024) eq 0"),
    ("(-duration)", "$filter=(5 mul (-duration)) gt -180"),
    ("-year", "$filter=-year le -2000"),
    ("distinct", "$distinct=true"),
    ("GetHashCode", "$orderby=gethashcode()"),
    ("Normalize", "$orderby=normalize(id) desc"),
];

/// The tree of a case of the parser, as the file writes it.
fn shape(expr: &Expr) -> Value {
    let literal = |literal: &Literal| match literal {
        Literal::Null => json!(["null", null]),
        Literal::Bool(value) => json!(["bool", value]),
        Literal::Long(value) => json!(["long", value]),
        Literal::Double(value) => json!(["double", value]),
        Literal::Text(value) => json!(["string", value]),
        Literal::Timestamp(time) => json!(["datetimeoffset", datasync::query::milliseconds(*time)]),
        other => json!(["?", other.to_string()]),
    };
    match expr {
        Expr::Field(name) => json!(name),
        Expr::Literal(value) => literal(value),
        Expr::Binary(op, left, right) => json!({ "op": op.keyword(), "left": shape(left), "right": shape(right) }),
        Expr::Not(inner) => json!({ "op": "not", "operand": shape(inner) }),
        other => json!(other.to_string()),
    }
}

#[test]
fn queries_are_written_and_read_as_by_the_reference() {
    let Some(folder) = folder() else { return };
    let mut passed: BTreeMap<String, u32> = BTreeMap::new();
    for case in cases(&folder, "odata_translation_cases.json") {
        let kind = case["kind"].as_str().unwrap();
        let azure = case["repo"] == "azure";
        let dialect = if azure { Dialect::Azure } else { Dialect::Toolkit };
        let text = |name: &str| case[name].as_str().unwrap();
        match kind {
            "query" => {
                // Some were written down without a tree.
                let query = match &case["ast"] {
                    Value::Null => text("expected").parse().unwrap(),
                    tree => translate::query(tree).unwrap(),
                };
                assert_eq!(query.to_text(dialect), text("expected"));
                if let Some(escaped) = case["expectedEscaped"].as_str() {
                    assert_eq!(query.to_query_string(dialect), escaped);
                }
                // What is written is read again as the same.
                let again: QueryDescription = text("expected").parse().unwrap();
                assert_eq!(without_suffix(&again.to_text(dialect)), without_suffix(text("expected")));
            }
            "literal" => {
                let of = &case["literal"];
                let kind = of["type"].as_str().unwrap();
                let written = QueryDescription {
                    filter: Some(Expr::Literal(translate::literal(&of["value"], kind).unwrap())),
                    ..QueryDescription::default()
                };
                let same = written.to_text(dialect).strip_prefix("$filter=") == Some(text("expected"));
                let otherwise = WRITTEN_OTHERWISE.iter().any(|(kind, _)| of["type"] == *kind);
                assert_eq!(same, !otherwise, "{case}");
            }
            "parse-roundtrip" => {
                let query = QueryDescription::from_query_string(text("queryString")).unwrap();
                let again = query.to_query_string(Dialect::Azure);
                assert_eq!(without_suffix(&again), without_suffix(text("expected")));
            }
            "parse" => assert_eq!(shape(&text("filter").parse().unwrap()), case["result"]),
            "parse-error" => {
                let filter = ["filter", "queryString"].iter().find_map(|name| case[*name].as_str()).unwrap();
                assert!(filter.trim_start_matches("$filter=").parse::<Expr>().is_err(), "{case}");
            }
            "local-store-accepts" => drop(text("queryString").parse::<QueryDescription>().unwrap()),
            // Our pulls ask for a window and not for what is greater (DESIGN.md, section 8); the text is spelled the same.
            "pull-query" => {
                let query: QueryDescription = text("expected").parse().unwrap();
                assert_eq!(query.to_text(dialect), text("expected"));
                assert_eq!(query.to_query_string(dialect), text("expectedEscaped"));
            }
            "invalid-parameter" => {
                let [name, value] = [0, 1].map(|place| case["parameter"][place].as_str().unwrap());
                assert!(QueryDescription::default().with_parameter(name, value).is_err(), "{name}={value}");
            }
            "unsupported" => {
                let source = text("source_expression");
                let like = REFUSED.iter().find(|(what, _)| source.contains(what));
                let (_, query) = like.unwrap_or_else(|| panic!("{source} is not among those refused"));
                assert!(query.parse::<QueryDescription>().is_err(), "{query}");
            }
            other => panic!("there is no rule for cases of the kind {other}"),
        }
        *passed.entry(kind.to_owned()).or_default() += 1;
    }
    println!("{passed:?}");
    assert!(passed.values().sum::<u32>() > 400, "{passed:?}");
}

/// What is wrong with a local answer. No case is left out: what only a service has, an envelope or a page, is left to it.
fn wrong_answer(case: &Value, answer: &Result<Value, String>) -> Option<String> {
    let expected = &case["expected"];
    let answer = match (answer, expected["status"].as_u64()) {
        (Err(_), Some(400)) => return None,
        (Ok(answer), Some(200)) => answer,
        (answer, status) => return Some(format!("{answer:?} where the service answers {status:?}")),
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (ids, mut wanted) = (list(&answer["ids"]), list(&expected["firstIds"]));
    let mut first = ids.clone();
    first.truncate(wanted.len());
    if expected["firstIdsUnordered"] == true {
        first.sort_by_key(Value::to_string);
        wanted.sort_by_key(Value::to_string);
    }
    let number = |option: &str| {
        let value = case["query"].as_str()?.split('&').find_map(|part| part.strip_prefix(option));
        value.map(|value| value.parse::<u64>().unwrap())
    };
    let total = answer["total"].as_u64().unwrap();
    let rows = total.saturating_sub(number("$skip=").unwrap_or(0)).min(number("$top=").unwrap_or(u64::MAX));
    let page = case["pageSize"].as_u64().unwrap();
    let is = |name: &str, value: u64| expected[name].is_null() || expected[name] == value;
    let checks = [
        ("first ids", first == wanted),
        ("number of rows", ids.len() as u64 == rows),
        ("number of all rows", is("allItems", rows)),
        ("number of rows in a page", is("itemCount", rows.min(page))),
        ("total", is("totalCount", total)),
        ("next page", expected.get("nextLink").is_none_or(|link| link.is_null() == (rows <= page))),
    ];
    let wrong: Vec<&str> = checks.into_iter().filter(|(_, right)| !right).map(|(what, _)| what).collect();
    (!wrong.is_empty()).then(|| format!("other {}: {rows} of {total} rows, {first:?}", wrong.join(", ")))
}

async fn local_answers(memory: bool) {
    let Some(folder) = folder() else { return };
    let mut local = Local::new(folder.clone(), memory).unwrap();
    let (cases, mut wrong) = (cases(&folder, "query_cases.json"), Vec::new());
    for case in &cases {
        let [query, dataset, schema] = ["query", "dataset", "schema"].map(|name| case[name].as_str().unwrap());
        let dataset = if case["preDeleted"].is_null() { dataset } else { "softmovies" };
        let answer = local.query(query, dataset, schema).await.map_err(|error| error.to_string());
        wrong.extend(wrong_answer(case, &answer).map(|what| format!("{} {query}: {what}", case["n"])));
    }
    println!("{} of {} cases passed", cases.len() - wrong.len(), cases.len());
    assert!(wrong.is_empty() && !cases.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn local_queries_are_answered_as_by_the_reference_from_redb() {
    local_answers(false).await;
}

#[tokio::test]
async fn local_queries_are_answered_as_by_the_reference_from_memory() {
    local_answers(true).await;
}

#[test]
fn an_error_in_a_query_says_where_in_the_text_as_it_was_sent() {
    for (text, at) in [("$filter=year gt", 15), ("$top=5&$filter=(a eq 1", 22), ("$skip=x", 6), ("$top=1&$what=2", 7)] {
        assert_eq!(text.parse::<QueryDescription>().unwrap_err().at(), Some(at), "{text}");
    }
    for (text, at) in [("$filter=%28year%20gt%20%3F%29", 23), ("$filter=title%20eq%20%27%C3%BC%27%20%29", 36)] {
        assert_eq!(QueryDescription::from_query_string(text).unwrap_err().at(), Some(at), "{text}");
    }
    assert!(QueryDescription::from_query_string("$filter=%FF").is_err());
}

//! The merge by field, case by case.

use std::collections::BTreeMap;

use super::{
    Rules,
    merge::{ByField, accumulates, clashes},
    policy::Verdict,
};
use crate::{
    config::ConflictPolicy,
    engine::{migrate::Migrations, table::Table},
    query::QueryDescription,
    row::Body,
    schema::{FieldKind, FieldSchema, MergeFunction, MergeRule, TableSchema},
};

fn longest(base: Option<&str>, local: &str, service: &str) -> Result<String, serde_json::Error> {
    let read = |text: &str| serde_json::from_str::<String>(text);
    let (local, service) = (read(local)?, read(service)?);
    if local == "panic" {
        panic!("it is asked for");
    }
    serde_json::to_string(&format!("{}{local}{service}", base.map(read).transpose()?.unwrap_or_default()))
}

fn first(_: Option<&str>, local: &str, _: &str) -> Result<String, serde_json::Error> {
    Ok(local.to_owned())
}

const FIELDS: &[FieldSchema] = &[
    FieldSchema::new("id", FieldKind::Text, false),
    FieldSchema::new("plain", FieldKind::Text, true),
    FieldSchema::new("other", FieldKind::Text, true),
    FieldSchema::new("client", FieldKind::Text, true).merge(MergeRule::Client),
    FieldSchema::new("server", FieldKind::Text, true).merge(MergeRule::Server),
    FieldSchema::new("max", FieldKind::I64, true).merge(MergeRule::Max),
    FieldSchema::new("min", FieldKind::Timestamp, true).merge(MergeRule::Min),
    FieldSchema::new("most", FieldKind::Decimal, true).merge(MergeRule::Max),
    FieldSchema::new("sum", FieldKind::I64, true).merge(MergeRule::Sum),
    FieldSchema::new("money", FieldKind::Decimal, true).merge(MergeRule::Sum),
    FieldSchema::new("float", FieldKind::F64, true).merge(MergeRule::Sum),
    FieldSchema::new("union", FieldKind::Json, true).merge(MergeRule::Union),
    FieldSchema::new("with", FieldKind::Text, true).merge(MergeRule::With(MergeFunction::new(longest))),
    FieldSchema::new("first", FieldKind::Text, true).merge(MergeRule::With(MergeFunction::new(first))),
    FieldSchema::new("changed", FieldKind::Timestamp, true).edited_at(),
    FieldSchema::local("local", FieldKind::I64, true),
];

fn table() -> Table {
    let schema = TableSchema::new("t", FIELDS, &[]);
    let ruled = FIELDS.iter().filter_map(|field| Some((field.name.to_string(), field.merge?)));
    let (policy, fallback) = (ConflictPolicy::Merge, ConflictPolicy::Park);
    Table {
        unversioned: false,
        name: "t".into(),
        fingerprint: schema.fingerprint(),
        schema: std::sync::Arc::new(schema),
        version: 1,
        migrations: Migrations::default(),
        retired: Vec::new(),
        pulled: QueryDescription::default(),
        query_id: None,
        parents: Vec::new(),
        children: Vec::new(),
        rules: Rules { policy, fallback, fields: ruled.collect::<BTreeMap<_, _>>(), resolver: None, readable: None },
    }
}

fn body(text: &str) -> Body {
    Body::from(text.as_bytes())
}

/// Base (empty for none), this device's side, the service's, the merge, and whether values of this device and of the
/// service were lost.
type Case = (&'static str, &'static str, &'static str, &'static str, (bool, bool));

const NONE: (bool, bool) = (false, false);
const OURS: (bool, bool) = (true, false);
const THEIRS: (bool, bool) = (false, true);

const CASES: &[Case] = &[
    // Only one side changed it, or both the same.
    (
        r#"{"plain":"a","other":"a"}"#,
        r#"{"plain":"b","other":"a"}"#,
        r#"{"plain":"a","other":"c"}"#,
        r#"{"plain":"b","other":"c"}"#,
        NONE,
    ),
    (r#"{"plain":"a"}"#, r#"{"plain":"b"}"#, r#"{"plain":"b"}"#, r#"{"plain":"b"}"#, NONE),
    (r#"{"plain":"a"}"#, r#"{}"#, r#"{"plain":"a","other":"b"}"#, r#"{"other":"b"}"#, NONE),
    (r#"{"plain":"a"}"#, r#"{"plain":null}"#, r#"{"plain":"a"}"#, r#"{"plain":null}"#, NONE),
    (r#"{"plain":"a"}"#, r#"{"plain":"a"}"#, r#"{}"#, r#"{}"#, NONE),
    // Fields that this build does not know, fields of the service, local ones.
    (
        r#"{"new":{"x":1}}"#,
        r#"{"new":{"x":2},"more":1}"#,
        r#"{"new":{"x":1.0},"sure":[1.10]}"#,
        r#"{"new":{"x":2},"sure":[1.10],"more":1}"#,
        NONE,
    ),
    (
        r#"{"id":"1","version":"1"}"#,
        r#"{"id":"1","version":"1","deleted":false}"#,
        r#"{"id":"1","version":"2","updatedAt":"t"}"#,
        r#"{"id":"1","version":"2","updatedAt":"t"}"#,
        NONE,
    ),
    (r#"{"local":1}"#, r#"{"local":2}"#, r#"{"plain":"a"}"#, r#"{"plain":"a","local":2}"#, NONE),
    // The rules.
    (r#"{"client":"a"}"#, r#"{"client":"b"}"#, r#"{"client":"c"}"#, r#"{"client":"b"}"#, THEIRS),
    (r#"{"server":"a"}"#, r#"{"server":"b"}"#, r#"{"server":"c"}"#, r#"{"server":"c"}"#, OURS),
    (r#"{"max":1}"#, r#"{"max":3}"#, r#"{"max":2}"#, r#"{"max":3}"#, THEIRS),
    (r#"{"max":9}"#, r#"{"max":2}"#, r#"{"max":10}"#, r#"{"max":10}"#, OURS),
    (r#"{"max":1}"#, r#"{"max":null}"#, r#"{"max":0}"#, r#"{"max":0}"#, OURS),
    (r#"{"max":1}"#, r#"{"max":0}"#, r#"{}"#, r#"{"max":0}"#, THEIRS),
    (
        r#"{"max":1}"#,
        r#"{"max":9007199254740993}"#,
        r#"{"max":9007199254740992}"#,
        r#"{"max":9007199254740993}"#,
        THEIRS,
    ),
    (
        r#"{"most":"1"}"#,
        r#"{"most":"2.10"}"#,
        r#"{"most":2.1000000000000000055}"#,
        r#"{"most":2.1000000000000000055}"#,
        OURS,
    ),
    (
        "",
        r#"{"min":"2024-01-01T00:00:00Z"}"#,
        r#"{"min":"2024-01-01T00:30:00+01:00"}"#,
        r#"{"min":"2024-01-01T00:30:00+01:00"}"#,
        OURS,
    ),
    (
        "",
        r#"{"min":"2024-01-01T00:00:00Z"}"#,
        r#"{"min":"2024-01-01T02:00:00+01:00"}"#,
        r#"{"min":"2024-01-01T00:00:00Z"}"#,
        THEIRS,
    ),
    // Sums are of what was added, also where both added the same, and to the last digit.
    (r#"{"sum":5}"#, r#"{"sum":6}"#, r#"{"sum":8}"#, r#"{"sum":9}"#, NONE),
    (r#"{"sum":5}"#, r#"{"sum":6}"#, r#"{"sum":6}"#, r#"{"sum":7}"#, NONE),
    (r#"{"sum":5}"#, r#"{"sum":6}"#, r#"{"sum":4}"#, r#"{"sum":5}"#, NONE),
    (r#"{}"#, r#"{"sum":2}"#, r#"{"sum":3}"#, r#"{"sum":5}"#, NONE),
    ("", r#"{"sum":2}"#, r#"{"sum":3}"#, r#"{"sum":5}"#, NONE),
    (
        r#"{"sum":9007199254740992}"#,
        r#"{"sum":9007199254740993}"#,
        r#"{"sum":9007199254740994}"#,
        r#"{"sum":9007199254740995}"#,
        NONE,
    ),
    (r#"{"sum":1.0}"#, r#"{"sum":2.0}"#, r#"{"sum":3}"#, r#"{"sum":4}"#, NONE),
    (r#"{"money":"1.00"}"#, r#"{"money":"1.10"}"#, r#"{"money":"3.00"}"#, r#"{"money":"3.10"}"#, NONE),
    (
        r#"{"money":0.1}"#,
        r#"{"money":0.3}"#,
        r#"{"money":12345678901234567890.25}"#,
        r#"{"money":12345678901234567890.45}"#,
        NONE,
    ),
    (r#"{"float":0.1}"#, r#"{"float":0.3}"#, r#"{"float":0.2}"#, r#"{"float":0.4}"#, NONE),
    (r#"{"float":0}"#, r#"{"float":1e300}"#, r#"{"float":1}"#, r#"{"float":1e300}"#, NONE),
    // Sets.
    (r#"{"union":["a"]}"#, r#"{"union":["a","b"]}"#, r#"{"union":["c","a"]}"#, r#"{"union":["c","a","b"]}"#, NONE),
    (r#"{"union":["a","b"]}"#, r#"{"union":["a"]}"#, r#"{"union":["a","b","c"]}"#, r#"{"union":["a","c"]}"#, NONE),
    (r#"{"union":["a","b"]}"#, r#"{"union":["a","b","c"]}"#, r#"{"union":["b"]}"#, r#"{"union":["b","c"]}"#, NONE),
    (r#"{"union":["a"]}"#, r#"{"union":["a","b"]}"#, r#"{"union":null}"#, r#"{"union":["b"]}"#, NONE),
    ("", r#"{"union":[1,{"x":1}]}"#, r#"{"union":[{"x":1.0},2]}"#, r#"{"union":[{"x":1.0},2,1]}"#, NONE),
    // Functions: what they make of both loses nothing, what they choose loses the other.
    (r#"{"with":"a"}"#, r#"{"with":"b"}"#, r#"{"with":"c"}"#, r#"{"with":"abc"}"#, NONE),
    (r#"{"with":"a"}"#, r#"{"with":"b"}"#, r#"{"with":"b"}"#, r#"{"with":"abb"}"#, NONE),
    ("", r#"{"with":"b"}"#, r#"{"with":"c"}"#, r#"{"with":"bc"}"#, NONE),
    (r#"{"first":"a"}"#, r#"{"first":"b"}"#, r#"{"first":"c"}"#, r#"{"first":"b"}"#, THEIRS),
    // The later edit's time.
    (
        r#"{}"#,
        r#"{"changed":"2024-01-02T00:00:00Z"}"#,
        r#"{"changed":"2024-01-01T00:00:00Z"}"#,
        r#"{"changed":"2024-01-02T00:00:00Z"}"#,
        NONE,
    ),
    (
        r#"{}"#,
        r#"{"changed":"2024-01-01T00:00:00Z"}"#,
        r#"{"changed":"2024-01-02T00:00:00Z"}"#,
        r#"{"changed":"2024-01-02T00:00:00Z"}"#,
        NONE,
    ),
];

fn merge(table: &Table, keys: bool, case: &Case, fallback: &Verdict) -> Result<(String, (bool, bool)), String> {
    let (base, ours, theirs) = (body(case.0), body(case.1), body(case.2));
    let base = Some(&base).filter(|base| !base.as_bytes().is_empty());
    let merged = ByField { table, keys, base, ours: &ours, theirs: &theirs }.run(fallback)?;
    let text = String::from_utf8(merged.body.as_bytes().to_vec()).unwrap();
    Ok((text, (merged.ours_lost, merged.theirs_lost)))
}

#[test]
fn i16_fields_are_merged_by_their_rules_and_keep_their_spelling() {
    let table = table();
    for case in CASES {
        let merged = merge(&table, true, case, &Verdict::Open);
        assert_eq!(merged, Ok((case.3.to_owned(), case.4)), "{case:?}");
    }
}

#[test]
fn what_no_rule_decides_falls_back() {
    let table = table();
    let cases: &[(&str, &str, &str, bool)] = &[
        (r#"{"plain":"a"}"#, r#"{"plain":"b"}"#, r#"{"plain":"c"}"#, true),
        (r#"{"new":1}"#, r#"{"new":2}"#, r#"{"new":3}"#, true),
        // A rule that does not fit the values.
        (r#"{"sum":1}"#, r#"{"sum":null}"#, r#"{"sum":3}"#, true),
        (r#"{"sum":0}"#, r#"{"sum":9223372036854775807}"#, r#"{"sum":1}"#, true),
        (r#"{"sum":0}"#, r#"{"sum":0.5}"#, r#"{"sum":1}"#, true),
        (r#"{"union":[]}"#, r#"{"union":"x"}"#, r#"{"union":[1]}"#, true),
        // Without keys a sum is not safe.
        (r#"{"sum":5}"#, r#"{"sum":6}"#, r#"{"sum":7}"#, false),
    ];
    for (base, ours, theirs, keys) in cases {
        let case = (*base, *ours, *theirs, "", NONE);
        let open = merge(&table, *keys, &case, &Verdict::Open).unwrap_err();
        assert!(open.starts_with("both sides have changed `"), "{open}");
        assert_eq!(open.contains("keeps no keys"), !keys, "{open}");
        assert_eq!(merge(&table, *keys, &case, &Verdict::Ours), Ok(((*ours).to_owned(), THEIRS)), "{case:?}");
        assert_eq!(merge(&table, *keys, &case, &Verdict::Theirs), Ok(((*theirs).to_owned(), OURS)), "{case:?}");
    }
    let same = (r#"{"sum":5}"#, r#"{"sum":6}"#, r#"{"sum":6}"#, "", NONE);
    assert_eq!(merge(&table, false, &same, &Verdict::Open), Ok((same.1.to_owned(), NONE)), "nothing is summed up");
}

#[test]
fn i08_a_function_that_fails_or_panics_parks() {
    let table = table();
    for (ours, theirs) in [(r#"{"with":"panic"}"#, r#"{"with":"c"}"#), (r#"{"with":"b"}"#, r#"{"with":null}"#)] {
        let failed = merge(&table, true, &(r#"{"with":"a"}"#, ours, theirs, "", NONE), &Verdict::Theirs);
        assert!(failed.as_ref().is_err_and(|reason| reason.contains("`with`")), "{failed:?}");
    }
    assert!(merge(&table, true, &("", "[]", "{}", "", NONE), &Verdict::Theirs).is_err());
}

#[test]
fn i28_a_second_change_meets_only_what_somebody_else_has_changed() {
    let table = table();
    let clash = |ours: &str, theirs: &str| {
        clashes(&table, true, &body(r#"{"plain":"a","other":"a","sum":1}"#), &body(ours), &body(theirs))
    };
    assert!(!clash(r#"{"plain":"b","other":"a","sum":1}"#, r#"{"plain":"a","other":"c","sum":2}"#));
    assert!(clash(r#"{"plain":"b","other":"a","sum":1}"#, r#"{"plain":"c","other":"a","sum":1}"#));
    assert!(!clash(r#"{"plain":"b","other":"a","sum":1}"#, r#"{"plain":"b","other":"a","sum":1}"#));
    assert!(
        clash(r#"{"plain":"a","other":"a","sum":2}"#, r#"{"plain":"a","other":"a","sum":2}"#),
        "both have added one"
    );
}

#[test]
fn equal_bodies_are_one_change_unless_something_is_added_up() {
    let table = table();
    let base = body(r#"{"plain":"a","sum":1,"with":"x"}"#);
    let adds = |keys, ours: &str| accumulates(&table, keys, Some(&base), &body(ours));
    assert!(!adds(true, r#"{"plain":"b","sum":1.0,"with":"x"}"#));
    assert!(adds(true, r#"{"plain":"a","sum":2,"with":"x"}"#));
    assert!(!adds(false, r#"{"plain":"a","sum":2,"with":"x"}"#));
    assert!(adds(false, r#"{"plain":"a","sum":1,"with":"y"}"#));
}

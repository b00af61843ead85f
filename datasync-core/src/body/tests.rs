use super::*;
use crate::schema::{FieldKind, FieldSchema};

const FIELDS: &[FieldSchema] = &[
    FieldSchema::new("id", FieldKind::Text, false),
    FieldSchema::new("title", FieldKind::Text, false),
    FieldSchema::new("seen", FieldKind::Timestamp, true),
    FieldSchema::local("scroll", FieldKind::I64, true),
];
const SCHEMA: TableSchema = TableSchema::new("t", FIELDS, &[]);

fn body(text: &str) -> Body {
    Body::from(text.as_bytes())
}

fn text(body: &Body) -> &str {
    std::str::from_utf8(body.as_bytes()).unwrap()
}

#[test]
fn i16_unknown_fields_survive_a_local_write() {
    let written = compose(
        &SCHEMA,
        &body(r#"{"id":"1","title":"b"}"#),
        Some(&body(r#"{"id":"1","title":"a","extra":1.10,"scroll":3,"version":"x"}"#)),
    );
    assert_eq!(text(&written.unwrap()), r#"{"id":"1","title":"b","extra":1.10}"#);
}

#[test]
fn i16_local_fields_survive_a_copy_of_the_service_and_are_never_sent() {
    let stored = body(r#"{"id":"1","title":"a","scroll":3}"#);
    let carried = carry_local(&SCHEMA, &body(r#"{"id":"1","title":"s","extra":[]}"#), Some(&stored));
    assert_eq!(text(&carried), r#"{"id":"1","title":"s","extra":[],"scroll":3}"#);
    let with_roles = body(r#"{"id":"1","title":"a","scroll":3,"version":"v","updatedAt":null,"deleted":true}"#);
    assert_eq!(text(&sendable(&SCHEMA, &with_roles, false, None).unwrap()), r#"{"id":"1","title":"a"}"#);
    assert_eq!(text(&sendable(&SCHEMA, &with_roles, true, None).unwrap()), r#"{"id":"1","title":"a","deleted":false}"#);
}

#[test]
fn i16_a_side_that_wins_has_the_newest_of_what_this_build_does_not_know() {
    let copy = |text: &str, deleted| Record { body: body(text), version: None, updated_at: None, deleted };
    let base = body(r#"{"id":"1","title":"a","x":1.0,"y":1,"z":null}"#);
    let ours = body(r#"{"id":"1","title":"b","x":1,"y":2,"scroll":3}"#);
    for (base, service, deleted, expected) in [
        (
            Some(&base),
            r#"{"title":"c","x":5,"y":5,"z":5,"scroll":9}"#,
            false,
            r#"{"id":"1","title":"b","x":5,"y":2,"scroll":3,"z":5}"#,
        ),
        (Some(&base), r#"{"title":"c"}"#, false, r#"{"id":"1","title":"b","y":2,"scroll":3}"#),
        (Some(&base), r#"{"version":"v","z":5}"#, true, r#"{"id":"1","title":"b","x":1,"y":2,"scroll":3,"z":5}"#),
        (None, r#"{"x":5,"z":5}"#, false, r#"{"id":"1","title":"b","x":1,"y":2,"scroll":3,"z":5}"#),
        (None, "no object", false, r#"{"id":"1","title":"b","x":1,"y":2,"scroll":3}"#),
    ] {
        let carried = carry_unknown(&SCHEMA, &ours, base, &copy(service, deleted));
        assert_eq!(text(&carried), expected, "{service}");
    }
}

#[test]
fn what_a_replace_started_from_is_spelled_as_the_replace_where_both_mean_the_same() {
    let base = body(
        r#"{"id":"1","version":"v","title":"a","seen":"2024-01-01T00:00:00.000Z","scroll":1,"gone":1,"no":null,"n":1.0}"#,
    );
    let replace = body(r#"{"id":"1","title":"b","seen":"2024-01-01T00:00:00Z","new":null,"n":1}"#);
    let from = started_from(&SCHEMA, &base, &replace).unwrap();
    assert_eq!(text(&from), r#"{"id":"1","title":"a","seen":"2024-01-01T00:00:00Z","gone":1,"n":1,"new":null}"#);
}

const KINDS: &[FieldSchema] = &[
    FieldSchema::new("id", FieldKind::Text, false),
    FieldSchema::new("text", FieldKind::Text, false),
    FieldSchema::new("whole", FieldKind::I64, false),
    FieldSchema::new("float", FieldKind::F64, false),
    FieldSchema::new("decimal", FieldKind::Decimal, false),
    FieldSchema::new("stamp", FieldKind::Timestamp, true),
    FieldSchema::new("day", FieldKind::Date, true),
    FieldSchema::new("time", FieldKind::Time, true),
    FieldSchema::new("uuid", FieldKind::Uuid, true),
    FieldSchema::new("json", FieldKind::Json, true),
    FieldSchema::new("changed", FieldKind::Timestamp, false).edited_at(),
    FieldSchema::local("local", FieldKind::I64, true),
];
const ALL: TableSchema = TableSchema::new("t", KINDS, &[]);

/// The table in the module's documentation, line by line: two bodies, and whether they are equal.
const EQUAL: &[(&str, &str, bool)] = &[
    (r#"{"version":"1","updatedAt":null,"deleted":false}"#, r#"{"version":"2"}"#, true),
    (r#"{"id":"1"}"#, r#"{"id":"2"}"#, true),
    (r#"{"local":1}"#, r#"{"local":2}"#, true),
    (r#"{"text":null}"#, "{}", true),
    (r#"{"unknown":null}"#, "{}", true),
    (r#"{"whole":0}"#, "{}", false),
    (r#"{"text":""}"#, r#"{"text":null}"#, false),
    (r#"{"json":[]}"#, "{}", false),
    (r#"{ "text": "\u0061", "whole":1 }"#, r#"{"whole":1,"text":"a"}"#, true),
    (r#"{"json":[1,2]}"#, r#"{"json":[2,1]}"#, false),
    (r#"{"json":[1]}"#, r#"{"json":[1,1]}"#, false),
    (r#"{"decimal":1.10}"#, r#"{"decimal":11e-1}"#, true),
    (r#"{"decimal":"1.10"}"#, r#"{"decimal":1.1}"#, true),
    (r#"{"decimal":"1.10"}"#, r#"{"decimal":"1.11"}"#, false),
    (r#"{"whole":1}"#, r#"{"whole":1.0}"#, true),
    (r#"{"whole":9007199254740993}"#, r#"{"whole":9007199254740992}"#, false),
    (r#"{"unknown":18446744073709551615}"#, r#"{"unknown":18446744073709551614}"#, false),
    (r#"{"decimal":0.1}"#, r#"{"decimal":0.1000000000000000055}"#, false),
    (r#"{"float":0.1}"#, r#"{"float":0.1000000000000000055}"#, true),
    (r#"{"float":1e2}"#, r#"{"float":100}"#, true),
    (r#"{"float":0.1}"#, r#"{"float":0.2}"#, false),
    (r#"{"stamp":"2024-01-01T00:00:00.1239Z"}"#, r#"{"stamp":"2024-01-01T01:00:00.123+01:00"}"#, true),
    (r#"{"stamp":"2024-01-01T00:00:00.123Z"}"#, r#"{"stamp":"2024-01-01T00:00:00.124Z"}"#, false),
    (r#"{"stamp":"soon"}"#, r#"{"stamp":"later"}"#, false),
    (r#"{"time":"10:00:00"}"#, r#"{"time":"10:00:00.000"}"#, true),
    (r#"{"time":"10:00:00"}"#, r#"{"time":"10:00:01"}"#, false),
    (r#"{"day":"2024-01-01"}"#, r#"{"day":"2024-01-02"}"#, false),
    (r#"{"uuid":"6F2C0000-0000-4000-8000-00000000000A"}"#, r#"{"uuid":"6f2c0000-0000-4000-8000-00000000000a"}"#, true),
    (r#"{"text":"a"}"#, r#"{"text":"A"}"#, false),
    (r#"{"text":"\u00e9"}"#, r#"{"text":"e\u0301"}"#, false),
    (r#"{"text":"1"}"#, r#"{"text":1}"#, false),
    (r#"{"unknown":{"a":1.0,"b":["x"]}}"#, r#"{"unknown":{"b":["\u0078"],"a":1}}"#, true),
    (r#"{"unknown":{"a":1}}"#, r#"{"unknown":{"a":1,"b":null}}"#, false),
    (r#"{"unknown":true}"#, r#"{"unknown":1}"#, false),
    ("[]", "[]", false),
    ("", "", false),
];

#[test]
fn fields_that_are_sent_are_compared_by_their_meaning() {
    for (one, other, equal) in EQUAL {
        for (one, other) in [(one, other), (other, one)] {
            assert_eq!(sent_equal(&ALL, &body(one), &body(other)), *equal, "{one} {other}");
            assert_eq!(same_data(&ALL, &body(one), &body(other)), *equal, "{one} {other}");
        }
    }
    let at = |time: &str| body(&format!(r#"{{"text":"a","changed":"{time}"}}"#));
    let (one, other) = (at("2024-01-01T00:00:00Z"), at("2025-01-01T00:00:00Z"));
    assert!(!sent_equal(&ALL, &one, &other) && same_data(&ALL, &one, &other));
}

#[test]
fn values_nested_without_end_are_compared_without_a_stack() {
    let deep = |inner: &str| format!(r#"{{"unknown":{}{inner}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(sent_equal(&ALL, &body(&deep("1")), &body(&deep("1"))));
    assert!(!sent_equal(&ALL, &body(&deep("1")), &body(&deep("1.0"))));
}

#[test]
fn the_time_of_an_edit_is_cut_to_the_time_of_the_service() {
    let now: Timestamp = "2024-06-01T00:00:00Z".parse().unwrap();
    let sent = |time: &str| {
        let body = body(&format!(r#"{{"id":"1","text":"a","changed":"{time}"}}"#));
        edited(&ALL, &sendable(&ALL, &body, false, Some(now)).unwrap()).unwrap()
    };
    assert_eq!(sent("2099-01-01T00:00:00Z"), now);
    assert_eq!(sent("2024-05-01T00:00:00Z"), "2024-05-01T00:00:00Z".parse().unwrap());
}

#[test]
fn after_a_success_the_second_change_keeps_only_its_own_fields() {
    let sent = body(r#"{"id":"1","title":"a","seen":null,"rest":1}"#);
    let local = body(r#"{"id":"1","title":"b","seen":null,"rest":1,"scroll":7}"#);
    let service = body(r#"{"id":"1","title":"A","seen":"2024-01-01T00:00:00Z","rest":2,"version":"2"}"#);
    let (merged, differs) = merge_after_success(&SCHEMA, &sent, &local, &service).unwrap();
    assert!(differs);
    let expected = r#"{"id":"1","title":"b","seen":"2024-01-01T00:00:00Z","rest":2,"version":"2","scroll":7}"#;
    assert_eq!(text(&merged), expected);
    let (_, differs) = merge_after_success(&SCHEMA, &sent, &sent, &service).unwrap();
    assert!(!differs);
}

#[test]
fn a_body_of_very_many_members_is_merged_and_compared_like_one_of_few() {
    const COUNT: usize = 50_000;
    let many = |value: u32| {
        let members: Vec<String> = (0..COUNT).map(|number| format!(r#""m{number}":{value}"#)).collect();
        body(&format!(r#"{{"id":"1","title":"a","m7":0,{}}}"#, members.join(",")))
    };
    let (one, other) = (many(1), many(2));
    assert_eq!(
        Object::parse(&one).unwrap().names().count(),
        COUNT + 2,
        "of a name that comes twice the later value counts"
    );
    assert!(sent_equal(&SCHEMA, &one, &many(1)) && !sent_equal(&SCHEMA, &one, &other));
    let (merged, differs) = merge_after_success(&SCHEMA, &one, &one, &other).unwrap();
    assert!(!differs && sent_equal(&SCHEMA, &merged, &other));
    let few = body(r#"{"id":"1","title":"a"}"#);
    let copy = Record { body: few.clone(), version: None, updated_at: None, deleted: false };
    assert_eq!(text(&carry_unknown(&SCHEMA, &one, Some(&one), &copy)), text(&few));
    assert_eq!(compose(&SCHEMA, &few, Some(&one)).unwrap().as_bytes().len(), one.as_bytes().len() - r#""m7":0,"#.len());
}

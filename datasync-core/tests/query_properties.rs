//! Ways to the rows: all must lead to the same.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::borrow::Cow;

use datasync_core::{
    query::{Evaluator, QueryDescription, Sorted, index_keys, plan},
    row::{Body, Record},
    schema::{FieldKind, FieldSchema, IndexSchema, Name, TableSchema},
    store::Direction,
};

/// A small generator with a fixed seed: what fails can be run again.
struct Random(u64);

impl Random {
    fn next(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most as u64) as usize
    }
}

const GRADES: &[Name] = &[Cow::Borrowed("low"), Cow::Borrowed("high")];
const FIELDS: &[FieldSchema] = &[
    FieldSchema::new("id", FieldKind::Text, false),
    FieldSchema::new("n", FieldKind::I64, true),
    FieldSchema::new("x", FieldKind::F64, true),
    FieldSchema::new("s", FieldKind::Text, true),
    FieldSchema::new("g", FieldKind::Enum(Cow::Borrowed(GRADES)), true),
    FieldSchema::new("t", FieldKind::Timestamp, true),
    FieldSchema::new("d", FieldKind::Decimal, true),
    FieldSchema::new("b", FieldKind::Bool, true),
];
const INDEXES: &[IndexSchema] = &[
    IndexSchema::new("n", &[Cow::Borrowed("n")]),
    IndexSchema::new("x", &[Cow::Borrowed("x")]),
    IndexSchema::new("s,n", &[Cow::Borrowed("s"), Cow::Borrowed("n")]),
    IndexSchema::new("g", &[Cow::Borrowed("g")]),
    IndexSchema::new("t", &[Cow::Borrowed("t")]),
    IndexSchema::new("d", &[Cow::Borrowed("d")]),
    IndexSchema::new("b,d", &[Cow::Borrowed("b"), Cow::Borrowed("d")]),
];
const SCHEMA: TableSchema = TableSchema::new("rows", FIELDS, INDEXES);

#[test]
fn every_way_to_the_rows_leads_to_the_same_rows_in_the_same_order() {
    std::thread::scope(|scope| {
        for seed in [11, 12] {
            scope.spawn(move || every_way_of(Random(seed)));
        }
    });
}

fn every_way_of(mut random: Random) {
    let pick = |random: &mut Random, from: &[&str]| from[random.next(from.len())].to_owned();
    // Whole numbers, and what their field ought not to hold.
    let ns = ["null", "-3", "0", "1", "2", "7", "9223372036854775807", "18446744073709551615", "1.5", "\"2\"", "true"];
    let xs = ["null", "-1.5", "0.0", "-0.0", "2", "1e300"];
    let ss = ["null", "\"\"", "\"a\"", "\"ab\"", "\"a\\u0000\"", "\"b\"", "\"é\""];
    let gs = ["null", "\"low\"", "\"high\""];
    let ts = ["null", "\"2024-01-01T00:00:00.0005Z\"", "\"2024-01-01T00:00:00Z\"", "\"1969-12-31T23:59:59.999Z\""];
    let ds = [
        "null",
        "0",
        "-0.00",
        "0.1",
        "0.10",
        "\"0.1\"",
        "0.3",
        "-7.25",
        "9007199254740993",
        "9007199254740992.5",
        "12345678901234567890.0123456789",
        "12345678901234567890.0123456788",
        "1e40",
        "\"x\"",
    ];
    let bs = ["null", "true", "false"];
    let rows: Vec<(String, Record)> = (0..80)
        .map(|number| {
            let (n, x, s) = (pick(&mut random, &ns), pick(&mut random, &xs), pick(&mut random, &ss));
            let (g, t) = (pick(&mut random, &gs), pick(&mut random, &ts));
            let (d, b) = (pick(&mut random, &ds), pick(&mut random, &bs));
            let body = format!(r#"{{"id":"{number:03}","n":{n},"x":{x},"s":{s},"g":{g},"t":{t},"d":{d},"b":{b}}}"#);
            let body = Body::from(body.into_bytes());
            (format!("{number:03}"), Record { body, version: None, updated_at: None, deleted: false })
        })
        .collect();
    // The rows in the order of their ids (no index), and of each index: key, place of the row.
    let mut entries = std::collections::BTreeMap::<Option<_>, Vec<(Vec<u8>, usize)>>::new();
    for (place, (id, record)) in rows.iter().enumerate() {
        entries.entry(None).or_default().push((id.as_bytes().to_vec(), place));
        for (index, key) in index_keys(&SCHEMA, id, record).unwrap() {
            entries.entry(Some(index)).or_default().push((key, place));
        }
    }
    entries.values_mut().for_each(|entries| entries.sort());
    let conditions = [
        "n eq 1",
        "n gt 0",
        "n le 2.5",
        "1 lt n",
        "n eq null",
        "n ne 1",
        "x ge -0.0",
        "x lt 2",
        "s eq 'a'",
        "s gt 'a'",
        "startswith(s,'a')",
        "s eq ''",
        "g eq 'high'",
        "g ge 'high'",
        "t ge cast(2024-01-01T00:00:00.000Z,Edm.DateTimeOffset)",
        "id eq '007'",
        "id gt '150'",
        "not(n eq 1)",
        "(n eq 1) or (n eq 2)",
        "n in (1,2)",
        "n in (7,null,2,2)",
        "n in (1)",
        "s in ('b','a')",
        "id in ('150','007','nothing')",
        "id lt '050'",
        "startswith(id,'1')",
        "g in ('high','low')",
        "n eq 18446744073709551615",
        "n gt 1.25",
        "n eq 1.5",
        "n ne null",
        "n lt null",
        "n ge 9223372036854775807",
        "x in (2,2.0)",
        "x eq 0",
        "d eq 0.1",
        "d eq 0.1f",
        "d le 9007199254740992.5M",
        "d gt 9007199254740993",
        "d ge 12345678901234567890.0123456789",
        "d lt 1e39M",
        "d in (0.1,0.3M,0)",
        "b",
        "not(b)",
        "not b",
        "b ne true",
        "b eq null or b eq true",
        "(b eq true) and (d ge 0) and (d lt 1)",
        "(n eq 1 or 2 eq n) or n in (7)",
        "s gt 'a' and s lt 'b'",
        "startswith(s,'')",
        "id ne null",
        "id in ('150','007') and id gt '100'",
        "ID gt '150' and N gt 0",
    ];
    let orders = [
        "",
        "n",
        "n desc",
        "s,n desc",
        "s,n",
        "s",
        "s desc",
        "s desc,n desc",
        "n,id",
        "x",
        "id",
        "id desc",
        "t desc",
        "n desc,id",
        "n desc,id desc",
        "n,id desc",
        "d",
        "d desc",
        "b,d",
        "b desc,d",
        "n,n desc,s",
        "id,s",
        "N desc",
    ];
    let mut ways = std::collections::BTreeMap::new();
    for _ in 0..4_000 {
        let filter: Vec<String> = (0..random.next(4)).map(|_| pick(&mut random, &conditions)).collect();
        let mut text = String::new();
        if !filter.is_empty() {
            text = format!("$filter={}", filter.join(" and "));
        }
        let order = pick(&mut random, &orders);
        if !order.is_empty() {
            text = format!("{text}&$orderby={order}");
        }
        if random.next(2) == 0 {
            text = format!("{text}&$top=5");
        }
        let query: QueryDescription = text.parse().unwrap();
        let evaluator = Evaluator::new(&query, &SCHEMA).unwrap();
        let matching: Vec<_> = rows
            .iter()
            .map(|(id, record)| evaluator.evaluate(id, record).unwrap().map(|key| (key, id.as_str())))
            .collect();
        let mut whole: Vec<_> = matching.iter().flatten().collect();
        whole.sort();
        let access = plan(&evaluator, &SCHEMA, INDEXES, query.top.is_some());
        let entries = &entries[&access.index];
        let mut planned = Vec::new();
        for range in &access.ranges {
            let within = |key: &Vec<u8>| std::ops::RangeBounds::contains(range, key);
            let of_range = entries.iter().filter(|(key, _)| within(key));
            let of_range: Vec<_> = of_range.map(|(_, place)| matching[*place].as_ref()).collect();
            assert!(!access.exact || of_range.iter().all(Option::is_some), "{text}: {access:?}");
            let mut of_range: Vec<_> = of_range.into_iter().flatten().collect();
            if access.direction == Direction::Backward {
                of_range.reverse();
            }
            planned.extend(of_range);
        }
        match access.sorted {
            Sorted::Fully => {}
            Sorted::Groups => {
                let grouped = planned.windows(2).all(|pair| pair[0].0 < pair[1].0 || pair[0].0.agrees(&pair[1].0));
                assert!(grouped, "{text}: {access:?}");
                planned.sort();
            }
            Sorted::Not => planned.sort(),
        }
        let way = (access.index.is_some(), access.sorted == Sorted::Not, access.ranges.len() > 1, access.exact);
        *ways.entry(way).or_insert(0) += 1;
        assert_eq!(planned, whole, "{text}: {access:?}");
    }
    assert!(ways.len() >= 14, "every kind of way was taken: {ways:?}");
}

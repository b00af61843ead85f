//! The text of queries: what is wrong with it is told with its place, and no text costs more than it may.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod fuzz;

use datasync_core::query::{Expr, MAX_LENGTH, QueryDescription, QueryError};

const FILTERS: &str = include_str!("corpus/filters.txt");
const QUERIES: &str = include_str!("corpus/queries.txt");

/// A small generator with a fixed seed: what fails can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most as u64) as usize
    }
}

/// Runs a target over the lines of a corpus and over changed copies: pieces of several lines, and bytes that are others.
fn run(target: fn(&[u8]), corpus: &str) {
    let lines: Vec<&[u8]> = corpus.lines().map(str::as_bytes).collect();
    lines.iter().for_each(|line| target(line));
    let mut random = Random(7);
    for _ in 0..20_000 {
        let mut text = Vec::new();
        for _ in 0..=random.below(3) {
            let line = lines[random.below(lines.len())];
            let from = random.below(line.len() + 1);
            text.extend_from_slice(&line[from..from + random.below(line.len() - from + 1)]);
        }
        for _ in 0..random.below(3) {
            let at = random.below(text.len().max(1));
            if let Some(byte) = text.get_mut(at) {
                *byte = b"()',-.&=%+ 0aE\0\xc3"[random.below(16)];
            }
        }
        target(&text);
    }
}

#[test]
fn any_filter_is_read_or_refused() {
    run(fuzz::filter, FILTERS);
}

#[test]
fn any_query_string_is_read_or_refused() {
    run(fuzz::query, QUERIES);
    run(fuzz::query, FILTERS);
}

#[test]
fn any_row_is_judged_or_refused() {
    let rows = r#"{"id":"1","n":7,"price":19.99,"title":"x"}
{"n":1,"n":2,"x":-0.0,"d":"2024-02-29","t":"12:15:00","rating":"A","g":"no"}
{"more":{"n":[{"x":"\u0000\ud83d\ude00"}]},"title":"a\\\"b"}
[1,2]
null
{"n":18446744073709551616e-5,"price":1e99999999999}"#;
    run(fuzz::row, rows);
}

fn error<T: std::str::FromStr<Err = QueryError>>(text: &str) -> QueryError {
    match text.parse::<T>() {
        Err(error) => error,
        Ok(_) => panic!("{} is read", &text[..text.len().min(80)]),
    }
}

#[test]
fn an_error_names_its_place() {
    for (text, at) in [
        ("a eq ", 5),
        ("a eq 'x", 5),
        ("a ? b", 2),
        ("nothing(a)", 0),
        ("(a eq 1", 7),
        ("a eq 1 b", 7),
        ("a eq 1.2.3", 5),
        ("a in (1,b)", 8),
        ("a eq cast(x,Edm.Date)", 10),
        ("a eq cast(1994-10-14,Edm.Int)", 21),
        ("year(a,b)", 0),
        ("größe eq ?", 11),
    ] {
        assert_eq!(error::<Expr>(text).at(), Some(at), "{text}");
    }
    for (text, at) in [
        ("$filter=year gt", 15),
        ("$top=5&$filter=(a eq 1", 22),
        ("$skip=x", 6),
        ("$top=1&$what=2", 7),
        ("$top=1&$top=2", 7),
        ("$orderby=title,year up", 20),
        ("$orderby=title,", 15),
        ("$orderby=a,tolower(b)", 11),
        ("$select=a,,b", 10),
        ("$count=yes", 7),
    ] {
        assert_eq!(error::<QueryDescription>(text).at(), Some(at), "{text}");
    }
    for (text, at) in [
        ("$filter=%28year%20gt%20%3F%29", 23),
        ("$filter=title%20eq%20%27%C3%BC%27%20%29", 36),
        ("a=b&$filter=a+%3F", 14),
        ("$filter=a%20eq%20%27%FF%27", 8),
        ("%FF=1", 0),
    ] {
        assert_eq!(QueryDescription::from_query_string(text).unwrap_err().at(), Some(at), "{text}");
    }
}

/// A text of a kind, so many levels deep.
type Deep = (&'static str, fn(usize) -> String);

/// The lexer goes one word ahead of the parser, and no further: what comes behind is never looked at.
#[test]
fn a_text_is_read_no_further_than_a_hundred_levels() {
    let deep: [Deep; 4] = [
        ("brackets", |levels| "(".repeat(levels)),
        ("negations", |levels| "not ".repeat(levels)),
        ("calls", |levels| "trim(".repeat(levels)),
        ("a chain", |levels| vec!["a"; levels + 1].join(" or ")),
    ];
    for (what, of) in deep {
        let whole = of(10_000);
        let at = error::<Expr>(&whole).at().unwrap();
        let width = whole.len() / 10_000;
        assert!((99 * width..=101 * width).contains(&at), "{what}: {at} of {width} bytes each");
        // The same text with what has no meaning two levels on: it is not reached.
        let mut cut = whole.clone();
        cut.truncate(at + 2 * width);
        cut.push('?');
        assert_eq!(error::<Expr>(&cut), error::<Expr>(&whole), "{what}");
        assert_eq!(error::<QueryDescription>(&format!("$filter={cut}")).at(), Some(at + 8), "{what}");
    }
    for (what, text) in [
        ("brackets", ["(".repeat(100), "a".to_owned(), ")".repeat(100)].concat()),
        ("negations", ["not ".repeat(100), "a".to_owned()].concat()),
        ("calls", ["trim(".repeat(99), "a".to_owned(), ")".repeat(99), " eq 'x'".to_owned()].concat()),
        ("a chain", vec!["a"; 101].join(" and ")),
    ] {
        let read: Expr = text.parse().unwrap_or_else(|error| panic!("a hundred levels of {what}: {error}"));
        let printed = read.to_string();
        assert_eq!(printed.parse::<Expr>().unwrap().to_string(), printed, "{what}");
    }
}

#[test]
fn a_text_is_read_no_further_than_64_kib() {
    for text in [
        "a".repeat(1 << 20),
        format!("title eq '{}'", "x".repeat(1 << 20)),
        vec!["id eq 'a'"; 100_000].join(" or "),
        format!("id in ('{}')", vec!["a"; 300_000].join("','")),
        "?".repeat(1 << 20),
    ] {
        assert_eq!(error::<Expr>(&text).at(), Some(MAX_LENGTH));
        let query = format!("$top=1&$filter={text}");
        assert_eq!(error::<QueryDescription>(&query).at(), Some(MAX_LENGTH));
        assert_eq!(QueryDescription::from_query_string(&query).unwrap_err().at(), Some(MAX_LENGTH));
    }
    let longest = format!("title eq '{}'", "x".repeat(MAX_LENGTH - 11));
    assert_eq!((longest.len(), longest.parse::<Expr>().is_ok()), (MAX_LENGTH, true));
}

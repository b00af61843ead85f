//! OData text to a tree: a Pratt parser over the words of the lexer.

use std::{borrow::Cow, str::FromStr};

use jiff::{Timestamp, civil};
use percent_encoding::percent_decode_str;
use uuid::Uuid;

use super::{
    description::{INCLUDE_DELETED, OrderBy, QueryDescription},
    error::QueryError,
    expr::{BinaryOp, Expr, Function, Literal},
    lexer::{Kind, Token, tokens},
};

/// The greatest length of a text that is parsed, in bytes.
const MAX_LENGTH: usize = 64 * 1024;
/// How deep parentheses, calls and negations may be nested.
const MAX_DEPTH: usize = 100;
/// How many operators a filter may have: a chain of them makes a tree as deep as it is long.
const MAX_OPERATORS: usize = 1_000;

/// Parses a filter: OData v4 as the service of the originals accepts it.
///
/// ```
/// use datasync_core::query::Expr;
/// let filter: Expr = "title eq 'milk' and year gt 1990".parse()?;
/// assert_eq!(filter.to_string(), "((title eq 'milk') and (year gt 1990L))");
/// # Ok::<(), datasync_core::query::QueryError>(())
/// ```
impl FromStr for Expr {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Expr, QueryError> {
        if text.len() > MAX_LENGTH {
            return Err(QueryError::at_byte(MAX_LENGTH, "the filter is longer than 64 KiB"));
        }
        let mut parser = Parser { text, tokens: tokens(text)?, next: 0, depth: 0, operators: 0 };
        let expr = parser.expression(0)?;
        match parser.peek() {
            Token { kind: Kind::End, .. } => Ok(expr),
            other => Err(QueryError::at_byte(other.at, format!("`{}` was not expected here", other.text))),
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    tokens: Vec<Token<'t>>,
    next: usize,
    depth: usize,
    operators: usize,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Token<'t> {
        // The last token is the end, and is never passed.
        self.tokens.get(self.next).or(self.tokens.last()).copied().unwrap_or(Token {
            kind: Kind::End,
            text: "",
            at: self.text.len(),
        })
    }

    fn take(&mut self) -> Token<'t> {
        let token = self.peek();
        if token.kind != Kind::End {
            self.next += 1;
        }
        token
    }

    fn expect(&mut self, kind: Kind, what: &str) -> Result<Token<'t>, QueryError> {
        let token = self.take();
        if token.kind == kind { Ok(token) } else { Err(QueryError::at_byte(token.at, format!("expected {what}"))) }
    }

    fn enter(&mut self, at: usize) -> Result<(), QueryError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(QueryError::at_byte(at, "the filter is nested more than 100 deep"));
        }
        Ok(())
    }

    /// An expression whose operators bind tighter than `least`.
    fn expression(&mut self, least: u8) -> Result<Expr, QueryError> {
        let mut left = self.operand()?;
        loop {
            let token = self.peek();
            if token.kind != Kind::Word {
                return Ok(left);
            }
            if token.text.eq_ignore_ascii_case("in") && BinaryOp::Eq.precedence() > least {
                self.take();
                left = Expr::In(Box::new(left), self.list()?);
                continue;
            }
            let op = BinaryOp::ALL.into_iter().find(|op| op.keyword().eq_ignore_ascii_case(token.text));
            let Some(op) = op.filter(|op| op.precedence() > least) else { return Ok(left) };
            self.take();
            self.operators += 1;
            if self.operators > MAX_OPERATORS {
                return Err(QueryError::at_byte(token.at, "the filter has more than 1,000 operators: use `in`"));
            }
            self.enter(token.at)?;
            let right = self.expression(op.precedence())?;
            self.depth -= 1;
            left = Expr::binary(op, left, right);
        }
    }

    fn operand(&mut self) -> Result<Expr, QueryError> {
        let token = self.take();
        match token.kind {
            Kind::Open => {
                self.enter(token.at)?;
                let inner = self.expression(0)?;
                self.expect(Kind::Close, "`)`")?;
                self.depth -= 1;
                Ok(inner)
            }
            Kind::Quoted => Ok(Expr::Literal(Literal::Text(unquote(token.text)))),
            Kind::Number => Ok(Expr::Literal(number(token, token.text)?)),
            Kind::Minus => {
                let digits = self.expect(Kind::Number, "a number behind `-`")?;
                let text = &self.text[token.at..digits.at + digits.text.len()];
                let text: String = text.split_whitespace().collect();
                Ok(Expr::Literal(number(token, &text)?))
            }
            Kind::Word => self.word(token),
            Kind::End => Err(QueryError::at_byte(token.at, "the filter ends too early")),
            Kind::Close | Kind::Comma => {
                Err(QueryError::at_byte(token.at, format!("`{}` was not expected here", token.text)))
            }
        }
    }

    fn word(&mut self, token: Token<'t>) -> Result<Expr, QueryError> {
        let text = token.text;
        let is = |word: &str| text.eq_ignore_ascii_case(word);
        if is("not") {
            self.enter(token.at)?;
            let inner = self.expression(BinaryOp::Mod.precedence())?;
            self.depth -= 1;
            return Ok(Expr::Not(Box::new(inner)));
        }
        let behind = self.peek();
        if behind.kind == Kind::Quoted && behind.at == token.at + text.len() {
            self.take();
            return prefixed(text, &unquote(behind.text))
                .map(Expr::Literal)
                .ok_or_else(|| QueryError::at_byte(token.at, format!("`{text}{}` is not a constant", behind.text)));
        }
        if behind.kind == Kind::Open {
            return if is("cast") { self.cast(token) } else { self.call(token) };
        }
        Ok(match text {
            "null" => Expr::Literal(Literal::Null),
            "true" => Expr::Literal(Literal::Bool(true)),
            "false" => Expr::Literal(Literal::Bool(false)),
            _ => match bare(text) {
                Some(literal) => Expr::Literal(literal),
                None => Expr::Field(text.to_owned()),
            },
        })
    }

    fn call(&mut self, name: Token<'t>) -> Result<Expr, QueryError> {
        let function = Function::ALL.into_iter().find(|function| function.name().eq_ignore_ascii_case(name.text));
        let Some(function) = function else {
            return Err(QueryError::at_byte(name.at, format!("there is no function `{}`", name.text)));
        };
        self.take();
        self.enter(name.at)?;
        let mut arguments = Vec::new();
        if self.peek().kind != Kind::Close {
            arguments.push(self.expression(0)?);
            while self.peek().kind == Kind::Comma {
                self.take();
                arguments.push(self.expression(0)?);
            }
        }
        self.expect(Kind::Close, "`)` or `,`")?;
        self.depth -= 1;
        let (least, most) = function.arity();
        if !(least..=most).contains(&arguments.len()) {
            let message = format!("`{}` takes {least} to {most} arguments", function.name());
            return Err(QueryError::at_byte(name.at, message));
        }
        Ok(Expr::Call(function, arguments))
    }

    /// `cast(literal,Edm.Type)`: the literal is not quoted, and reaches up to the comma.
    fn cast(&mut self, name: Token<'t>) -> Result<Expr, QueryError> {
        self.take();
        let from = self.peek().at;
        while !matches!(self.peek().kind, Kind::Comma | Kind::Close | Kind::End) {
            self.take();
        }
        let comma = self.expect(Kind::Comma, "`,` and a type")?;
        let text = self.text[from..comma.at].trim();
        let kind = self.expect(Kind::Word, "a type such as `Edm.Date`")?;
        self.expect(Kind::Close, "`)`")?;
        let is = |edm: &str| kind.text.eq_ignore_ascii_case(edm);
        let literal = if is("Edm.DateTimeOffset") || is("Edm.DateTime") {
            timestamp(text).map(Literal::Timestamp)
        } else if is("Edm.Date") {
            text.parse().ok().map(Literal::Date)
        } else if is("Edm.TimeOfDay") {
            text.parse().ok().map(Literal::Time)
        } else if is("Edm.Guid") {
            Uuid::try_parse(text).ok().map(Literal::Uuid)
        } else {
            return Err(QueryError::at_byte(kind.at, format!("there is no cast to `{}`", kind.text)));
        };
        let message = || format!("`{text}` is not a literal of the type `{}`", kind.text);
        literal.map(Expr::Literal).ok_or_else(|| QueryError::at_byte(name.at, message()))
    }

    fn list(&mut self) -> Result<Vec<Literal>, QueryError> {
        self.expect(Kind::Open, "`(` and values behind `in`")?;
        let mut values = Vec::new();
        loop {
            let at = self.peek().at;
            match self.operand()? {
                Expr::Literal(literal) => values.push(literal),
                _ => return Err(QueryError::at_byte(at, "a list holds only constants")),
            }
            match self.take() {
                Token { kind: Kind::Comma, .. } => {}
                Token { kind: Kind::Close, .. } => return Ok(values),
                other => return Err(QueryError::at_byte(other.at, "expected `,` or `)`")),
            }
        }
    }
}

fn unquote(text: &str) -> String {
    text[1..text.len() - 1].replace("''", "'")
}

/// A constant in quotes with its type before them: points, and what the older dialect of Azure Mobile Apps writes.
fn prefixed(kind: &str, text: &str) -> Option<Literal> {
    match kind.to_ascii_lowercase().as_str() {
        "geography" => point(text),
        "datetimeoffset" | "datetime" => timestamp(text).map(Literal::Timestamp),
        "guid" => Uuid::try_parse(text).ok().map(Literal::Uuid),
        _ => None,
    }
}

/// `POINT(longitude latitude)`, with an optional reference system before it, which must be that of GeoJSON.
fn point(text: &str) -> Option<Literal> {
    let text = text.trim();
    let text = text.strip_prefix("SRID=4326;").unwrap_or(text).trim();
    let inner = text.get(..5).filter(|word| word.eq_ignore_ascii_case("POINT")).and(text.get(5..))?;
    let inner = inner.trim().strip_prefix('(')?.strip_suffix(')')?;
    let mut degrees = inner.split_whitespace().map(str::parse::<f64>);
    match (degrees.next(), degrees.next(), degrees.next()) {
        (Some(Ok(longitude)), Some(Ok(latitude)), None) if longitude.is_finite() && latitude.is_finite() => {
            Some(Literal::Point { longitude, latitude })
        }
        _ => None,
    }
}

fn timestamp(text: &str) -> Option<Timestamp> {
    if let Ok(timestamp) = text.parse() {
        return Some(timestamp);
    }
    // A time without an offset is UTC.
    format!("{text}Z").parse().ok()
}

/// A literal that is neither a word nor a number by its first letter: a UUID that begins with a letter.
fn bare(text: &str) -> Option<Literal> {
    (text.len() == 36).then(|| Uuid::try_parse(text).ok().map(Literal::Uuid)).flatten()
}

fn number(token: Token<'_>, text: &str) -> Result<Literal, QueryError> {
    let wrong = || QueryError::at_byte(token.at, format!("`{text}` is not a constant"));
    if text.len() == 36
        && let Ok(uuid) = Uuid::try_parse(text)
    {
        return Ok(Literal::Uuid(uuid));
    }
    if text.contains(':') || text.get(1..).is_some_and(|rest| rest.contains('-') && !rest.contains(['e', 'E'])) {
        let date = || text.parse::<civil::Date>().ok().filter(|_| text.len() == 10).map(Literal::Date);
        let time = || text.parse::<civil::Time>().ok().filter(|_| !text.contains('-')).map(Literal::Time);
        let stamp = || text.contains(['T', 't']).then(|| timestamp(text).map(Literal::Timestamp)).flatten();
        return date().or_else(time).or_else(stamp).ok_or_else(wrong);
    }
    let (digits, suffix) = match text.as_bytes().last() {
        Some(last) if last.is_ascii_alphabetic() => text.split_at(text.len() - 1),
        _ => (text, ""),
    };
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    if !plain || digits.ends_with('.') {
        return Err(wrong());
    }
    let whole = !digits.contains(['.', 'e', 'E']);
    match suffix {
        "" if whole => digits.parse().map(Literal::Long).map_err(|_| wrong()),
        "" => digits.parse().ok().filter(|value: &f64| value.is_finite()).map(Literal::Double).ok_or_else(wrong),
        "L" | "l" if whole => digits.parse().map(Literal::Long).map_err(|_| wrong()),
        "f" | "F" => digits.parse().ok().filter(|value: &f32| value.is_finite()).map(Literal::Single).ok_or_else(wrong),
        "d" | "D" => digits.parse().ok().filter(|value: &f64| value.is_finite()).map(Literal::Double).ok_or_else(wrong),
        "m" | "M" if digits.parse::<f64>().is_ok() => Ok(Literal::Decimal(digits.to_owned())),
        _ => Err(wrong()),
    }
}

impl QueryDescription {
    /// Reads the options of a query string that are already split and decoded, as `("$filter", "title eq 'x'")`.
    ///
    /// Names without `$` are parameters: `__includedeleted` asks for deleted rows if it is `true`, others are kept.
    ///
    /// # Errors
    ///
    /// An option that is unknown, given twice, or whose value cannot be read.
    pub fn from_options<'o>(
        options: impl IntoIterator<Item = (&'o str, &'o str)>,
    ) -> Result<QueryDescription, QueryError> {
        let mut query = QueryDescription::default();
        let mut seen: Vec<String> = Vec::new();
        for (name, value) in options {
            query.read_option(&mut seen, name, value)?;
        }
        Ok(query)
    }

    fn read_option(&mut self, seen: &mut Vec<String>, name: &str, value: &str) -> Result<(), QueryError> {
        if name.eq_ignore_ascii_case(INCLUDE_DELETED) {
            self.include_deleted |= value.eq_ignore_ascii_case("true");
            return Ok(());
        }
        if !name.starts_with('$') {
            self.parameters.insert(name.to_owned(), value.to_owned());
            return Ok(());
        }
        let lower = name.to_ascii_lowercase();
        if seen.contains(&lower) {
            return Err(QueryError::new(format!("the option `{name}` is given twice")));
        }
        match lower.as_str() {
            "$filter" => self.filter = Some(value.parse()?),
            "$orderby" => self.order = order(value)?,
            "$skip" => self.skip = whole(name, value)?,
            "$top" => self.top = Some(whole(name, value)?),
            "$select" => self.select = names(value)?,
            "$count" => self.count = flag(name, value)?,
            _ => return Err(QueryError::new(format!("there is no option `{name}`"))),
        }
        seen.push(lower);
        Ok(())
    }
}

/// Reads a query string that is not percent-encoded. Errors say where in it.
impl FromStr for QueryDescription {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<QueryDescription, QueryError> {
        // An ampersand inside a quoted text separates nothing.
        let mut parts = Vec::new();
        let (mut start, mut inside) = (0, false);
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                b'\'' => inside = !inside,
                b'&' if !inside => {
                    parts.push((start, &text[start..at]));
                    start = at + 1;
                }
                _ => {}
            }
        }
        parts.push((start, &text[start..]));
        read_parts(parts, |value| Ok(value.into()), |_, at| at)
    }
}

impl QueryDescription {
    /// Reads a query string as it is sent, percent-encoded. Errors say where in it.
    ///
    /// # Errors
    ///
    /// As for [`from_options`](QueryDescription::from_options), and for bytes that are not UTF-8.
    pub fn from_query_string(text: &str) -> Result<QueryDescription, QueryError> {
        let mut parts = Vec::new();
        let mut start = 0;
        for part in text.split('&') {
            parts.push((start, part));
            start += part.len() + 1;
        }
        let decode = |value| {
            let decoded = percent_decode_str(value).decode_utf8();
            decoded.map_err(|_| QueryError::new("the query string holds bytes that are not UTF-8"))
        };
        read_parts(parts, decode, encoded_place)
    }
}

/// Where the byte `at` of what `encoded` decodes to begins in it.
fn encoded_place(encoded: &str, at: usize) -> usize {
    let bytes = encoded.as_bytes();
    let (mut place, mut decoded) = (0, 0);
    while decoded < at && place < bytes.len() {
        let escaped = bytes[place] == b'%'
            && bytes.get(place + 1..place + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        place += if escaped { 3 } else { 1 };
        decoded += 1;
    }
    place
}

/// Reads the options of a query string, each with its place; `place` leads from a decoded value back to the text.
fn read_parts<'t>(
    parts: Vec<(usize, &'t str)>,
    decode: impl Fn(&'t str) -> Result<Cow<'t, str>, QueryError>,
    place: impl Fn(&str, usize) -> usize,
) -> Result<QueryDescription, QueryError> {
    let mut query = QueryDescription::default();
    let mut seen = Vec::new();
    for (start, part) in parts.into_iter().filter(|(_, part)| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        // An error without a place is about the option; one with a place is inside its value.
        let inside = |error: QueryError| {
            let at = error.at().map_or(start, |at| start + name.len() + 1 + place(value, at));
            error.at_place(at)
        };
        let (known, read) = (decode(name).map_err(inside)?, decode(value).map_err(inside)?);
        query.read_option(&mut seen, &known, &read).map_err(inside)?;
    }
    Ok(query)
}

fn order(value: &str) -> Result<Vec<OrderBy>, QueryError> {
    let mut keys = Vec::new();
    for key in value.split(',') {
        let mut words = key.split_whitespace();
        let field = words.next().ok_or_else(|| QueryError::new("an order key is empty"))?.to_owned();
        let descending = match words.next() {
            None => false,
            Some(word) if word.eq_ignore_ascii_case("asc") => false,
            Some(word) if word.eq_ignore_ascii_case("desc") => true,
            Some(word) => return Err(QueryError::new(format!("`{word}` is not an order: use `asc` or `desc`"))),
        };
        if let Some(word) = words.next() {
            return Err(QueryError::new(format!("`{word}` was not expected in an order")));
        }
        if !field.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-@".contains(&byte)) {
            return Err(QueryError::new(format!("`{field}` is not a property: only properties give an order")));
        }
        keys.push(OrderBy { field, descending });
    }
    Ok(keys)
}

fn names(value: &str) -> Result<Vec<String>, QueryError> {
    let names: Vec<String> = value.split(',').map(|name| name.trim().to_owned()).collect();
    match names.iter().any(String::is_empty) {
        true => Err(QueryError::new("a name in `$select` is empty")),
        false => Ok(names),
    }
}

fn whole(name: &str, value: &str) -> Result<u64, QueryError> {
    let parsed = value.trim().parse::<u64>().ok().filter(|value| i64::try_from(*value).is_ok());
    parsed.ok_or_else(|| QueryError::new(format!("`{name}` must be a whole number from 0, but is `{value}`")))
}

fn flag(name: &str, value: &str) -> Result<bool, QueryError> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(QueryError::new(format!("`{name}` must be `true` or `false`, but is `{value}`"))),
    }
}

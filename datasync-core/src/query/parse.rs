//! OData text to a tree: a Pratt parser over the words of the lexer.

use std::str::FromStr;

use jiff::civil;
use uuid::Uuid;

use super::{
    decimal::Decimal,
    error::QueryError,
    expr::{BinaryOp, Expr, Function, Literal},
    lexer::{Kind, Lexer, Token},
    value::timestamp,
};

/// The greatest length of a text that is parsed, in bytes: of a filter, and of a query string as it is sent.
pub const MAX_LENGTH: usize = 64 * 1024;
/// How deep a filter may be: parentheses, calls and negations within one another, and operators. A chain of operators is as
/// deep as it is long, and is printed with as many parentheses.
const MAX_DEPTH: usize = 100;

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
        let mut lexer = Lexer::new(text);
        let ahead = lexer.next()?;
        let mut parser = Parser { text, lexer, ahead, depth: 0 };
        let Tree(expr, _) = parser.expression(0)?;
        match parser.ahead {
            Token { kind: Kind::End, .. } => Ok(expr),
            other => Err(unexpected(other)),
        }
    }
}

fn unexpected(token: Token<'_>) -> QueryError {
    // Names are repeated, constants are not (I21).
    let message = match token.kind {
        Kind::Quoted | Kind::Number => "a constant was not expected here".to_owned(),
        _ => format!("`{}` was not expected here", token.text),
    };
    QueryError::at_byte(token.at, message)
}

fn too_deep(at: usize) -> QueryError {
    let message = format!("the filter is nested more than {MAX_DEPTH} deep: use `in` for many values");
    QueryError::at_byte(at, message)
}

/// An expression, and how many levels it has below it.
struct Tree(Expr, usize);

struct Parser<'t> {
    text: &'t str,
    lexer: Lexer<'t>,
    /// The word that comes next.
    ahead: Token<'t>,
    /// How many parentheses, calls and negations are open.
    depth: usize,
}

impl<'t> Parser<'t> {
    fn take(&mut self) -> Result<Token<'t>, QueryError> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.ahead, next))
    }

    fn expect(&mut self, kind: Kind, what: &str) -> Result<Token<'t>, QueryError> {
        if self.ahead.kind == kind {
            self.take()
        } else {
            Err(QueryError::at_byte(self.ahead.at, format!("expected {what}")))
        }
    }

    /// What stands within something that opened at `at`.
    fn within<T>(
        &mut self,
        at: usize,
        inner: impl FnOnce(&mut Parser<'t>) -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        if self.depth == MAX_DEPTH {
            return Err(too_deep(at));
        }
        self.depth += 1;
        let inner = inner(self)?;
        self.depth -= 1;
        Ok(inner)
    }

    /// An expression whose operators bind tighter than `least`.
    fn expression(&mut self, least: u8) -> Result<Tree, QueryError> {
        let mut left = self.operand()?;
        loop {
            let token = self.ahead;
            if token.kind != Kind::Word {
                return Ok(left);
            }
            if token.text.eq_ignore_ascii_case("in") && BinaryOp::Eq.precedence() > least {
                self.take()?;
                let values = self.list()?;
                left = node(token.at, left.1, |left| Expr::In(Box::new(left), values), left.0)?;
                continue;
            }
            let op = BinaryOp::ALL.into_iter().find(|op| op.keyword().eq_ignore_ascii_case(token.text));
            let Some(op) = op.filter(|op| op.precedence() > least) else { return Ok(left) };
            self.take()?;
            let right = self.expression(op.precedence())?;
            left = node(token.at, left.1.max(right.1), |left| Expr::binary(op, left, right.0), left.0)?;
        }
    }

    fn operand(&mut self) -> Result<Tree, QueryError> {
        let token = self.take()?;
        Ok(match token.kind {
            Kind::Open => self.within(token.at, |parser| {
                let inner = parser.expression(0)?;
                parser.expect(Kind::Close, "`)`")?;
                Ok(inner)
            })?,
            Kind::Quoted => Tree(Expr::Literal(Literal::Text(unquote(token.text))), 0),
            Kind::Number => Tree(Expr::Literal(number(token, token.text)?), 0),
            Kind::Minus => {
                let digits = self.expect(Kind::Number, "a number behind `-`")?;
                let text = &self.text[token.at..digits.at + digits.text.len()];
                let text: String = text.split_whitespace().collect();
                Tree(Expr::Literal(number(token, &text)?), 0)
            }
            Kind::Word => self.word(token)?,
            Kind::End => return Err(QueryError::at_byte(token.at, "the filter ends too early")),
            Kind::Close | Kind::Comma => return Err(unexpected(token)),
        })
    }

    fn word(&mut self, token: Token<'t>) -> Result<Tree, QueryError> {
        let text = token.text;
        let is = |word: &str| text.eq_ignore_ascii_case(word);
        let behind = self.ahead;
        if is("not") {
            // Parentheses behind it belong to it, as it is printed.
            let inner = self.within(token.at, |parser| match behind.kind {
                Kind::Open => {
                    parser.take()?;
                    let inner = parser.expression(0)?;
                    parser.expect(Kind::Close, "`)`")?;
                    Ok(inner)
                }
                _ => parser.operand(),
            })?;
            return node(token.at, inner.1, |inner| Expr::Not(Box::new(inner)), inner.0);
        }
        if behind.kind == Kind::Quoted && behind.at == token.at + text.len() {
            self.take()?;
            let wrong = || QueryError::at_byte(token.at, format!("`{text}'…'` is not a constant"));
            let literal = prefixed(text, &unquote(behind.text)).ok_or_else(wrong)?;
            return Ok(Tree(Expr::Literal(literal), 0));
        }
        if behind.kind == Kind::Open {
            return if is("cast") { self.cast() } else { self.call(token) };
        }
        let expr = match text {
            "null" => Expr::Literal(Literal::Null),
            "true" => Expr::Literal(Literal::Bool(true)),
            "false" => Expr::Literal(Literal::Bool(false)),
            _ => match bare(text) {
                Some(literal) => Expr::Literal(literal),
                None => Expr::Field(text.to_owned()),
            },
        };
        Ok(Tree(expr, 0))
    }

    fn call(&mut self, name: Token<'t>) -> Result<Tree, QueryError> {
        let function = Function::ALL.into_iter().find(|function| function.name().eq_ignore_ascii_case(name.text));
        let Some(function) = function else {
            return Err(QueryError::at_byte(name.at, format!("there is no function `{}`", name.text)));
        };
        self.take()?;
        let (mut arguments, mut levels) = (Vec::new(), 0);
        self.within(name.at, |parser| {
            while parser.ahead.kind != Kind::Close {
                if !arguments.is_empty() {
                    parser.expect(Kind::Comma, "`)` or `,`")?;
                }
                let Tree(argument, below) = parser.expression(0)?;
                arguments.push(argument);
                levels = levels.max(below);
            }
            parser.expect(Kind::Close, "`)` or `,`")
        })?;
        let (least, most) = function.arity();
        if !(least..=most).contains(&arguments.len()) {
            let message = format!("`{}` takes {least} to {most} arguments", function.name());
            return Err(QueryError::at_byte(name.at, message));
        }
        if levels == MAX_DEPTH {
            return Err(too_deep(name.at));
        }
        Ok(Tree(Expr::Call(function, arguments), levels + 1))
    }

    /// `cast(literal,Edm.Type)`: the literal is not quoted, and reaches up to the comma.
    fn cast(&mut self) -> Result<Tree, QueryError> {
        self.take()?;
        let from = self.ahead.at;
        while !matches!(self.ahead.kind, Kind::Comma | Kind::Close | Kind::End) {
            self.take()?;
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
        let wrong = || QueryError::at_byte(from, format!("this is not a literal of the type `{}`", kind.text));
        Ok(Tree(Expr::Literal(literal.ok_or_else(wrong)?), 0))
    }

    fn list(&mut self) -> Result<Vec<Literal>, QueryError> {
        self.expect(Kind::Open, "`(` and values behind `in`")?;
        let mut values = Vec::new();
        loop {
            let at = self.ahead.at;
            match self.operand()? {
                Tree(Expr::Literal(literal), _) => values.push(literal),
                _ => return Err(QueryError::at_byte(at, "a list holds only constants")),
            }
            match self.take()? {
                Token { kind: Kind::Comma, .. } => {}
                Token { kind: Kind::Close, .. } => return Ok(values),
                other => return Err(QueryError::at_byte(other.at, "expected `,` or `)`")),
            }
        }
    }
}

/// A node with one more level than what is below it.
fn node(at: usize, below: usize, make: impl FnOnce(Expr) -> Expr, inner: Expr) -> Result<Tree, QueryError> {
    if below == MAX_DEPTH { Err(too_deep(at)) } else { Ok(Tree(make(inner), below + 1)) }
}

fn unquote(text: &str) -> String {
    text[1..text.len() - 1].replace("''", "'")
}

/// A constant in quotes with its type before them: points, and what the older clients of Azure Mobile Apps write.
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

/// A literal that is neither a word nor a number by its first letter: a UUID that begins with a letter.
fn bare(text: &str) -> Option<Literal> {
    (text.len() == 36).then(|| Uuid::try_parse(text).ok().map(Literal::Uuid)).flatten()
}

fn number(token: Token<'_>, text: &str) -> Result<Literal, QueryError> {
    let wrong = || QueryError::at_byte(token.at, "this is not a constant");
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
    let single = || digits.parse().ok().filter(|value: &f32| value.is_finite()).map(Literal::Single);
    let double = || digits.parse().ok().filter(|value: &f64| value.is_finite());
    let decimal = || Decimal::parse_exact(digits).map(|_| Literal::Decimal(digits.to_owned()));
    let literal = match suffix {
        "" | "L" | "l" if whole => digits.parse().ok().map(Literal::Long).or_else(decimal),
        // What a floating-point number cannot hold to the digit is a decimal.
        "" => double().and_then(|value| match Decimal::parse_exact(digits) {
            Some(exact) if Decimal::of_float(value) != Some(exact) => decimal(),
            _ => Some(Literal::Double(value)),
        }),
        "f" | "F" => single(),
        "d" | "D" => double().map(Literal::Double),
        "m" | "M" => decimal(),
        _ => None,
    };
    literal.ok_or_else(wrong)
}

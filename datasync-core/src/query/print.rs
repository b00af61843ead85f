//! The OData text of a filter, spelled as the clients of the originals spell it.

use std::fmt;

use super::expr::{Expr, Literal};

/// Whose spelling a query is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// The Datasync Community Toolkit's.
    #[default]
    Toolkit,
    /// That of Azure Mobile Apps: times of day without a fraction unless they have one. (Its clients write hours from 1 to 12
    /// only and drop the fraction, which is not repeated here.)
    Azure,
}

/// Something in the spelling of a dialect.
pub(super) struct Spelled<'e, T>(pub(super) &'e T, pub(super) Dialect);

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Spelled(self, Dialect::default()).fmt(f)
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Spelled(self, Dialect::default()).fmt(f)
    }
}

impl fmt::Display for Spelled<'_, Expr> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spelled(expr, dialect) = self;
        match expr {
            Expr::Field(name) => f.write_str(name),
            Expr::Literal(literal) => Spelled(literal, *dialect).fmt(f),
            Expr::Binary(op, left, right) => {
                write!(f, "({} {} {})", Spelled(&**left, *dialect), op.keyword(), Spelled(&**right, *dialect))
            }
            Expr::Not(inner) => write!(f, "not({})", Spelled(&**inner, *dialect)),
            Expr::In(operand, values) => {
                write!(f, "{} in (", Spelled(&**operand, *dialect))?;
                separated(f, values, *dialect)?;
                f.write_str(")")
            }
            Expr::Call(function, arguments) => {
                write!(f, "{}(", function.name())?;
                separated(f, arguments, *dialect)?;
                f.write_str(")")
            }
        }
    }
}

fn separated<'i, T>(f: &mut fmt::Formatter<'_>, items: &'i [T], dialect: Dialect) -> fmt::Result
where
    Spelled<'i, T>: fmt::Display,
{
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            f.write_str(",")?;
        }
        fmt::Display::fmt(&Spelled(item, dialect), f)?;
    }
    Ok(())
}

impl fmt::Display for Spelled<'_, Literal> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Literal::Null => f.write_str("null"),
            Literal::Bool(value) => value.fmt(f),
            Literal::Int(value) => value.fmt(f),
            Literal::Long(value) => write!(f, "{value}L"),
            Literal::Single(value) => write!(f, "{}f", shortest(f64::from(*value), &value.to_string(), 7)),
            Literal::Double(value) => {
                let text = shortest(*value, &value.to_string(), 15);
                f.write_str(&text)?;
                if !text.contains(['.', 'E']) && value.is_finite() {
                    f.write_str(".0")?;
                }
                Ok(())
            }
            Literal::Decimal(text) => write!(f, "{text}M"),
            Literal::Text(text) => write!(f, "'{}'", text.replace('\'', "''")),
            Literal::Timestamp(value) => write!(f, "cast({},Edm.DateTimeOffset)", milliseconds(*value)),
            Literal::Date(value) => write!(f, "cast({value},Edm.Date)"),
            Literal::Time(value) => {
                write!(f, "cast({:02}:{:02}:{:02}", value.hour(), value.minute(), value.second())?;
                if self.1 == Dialect::Toolkit || value.millisecond() > 0 {
                    write!(f, ".{:03}", value.millisecond())?;
                }
                f.write_str(",Edm.TimeOfDay)")
            }
            Literal::Uuid(value) => write!(f, "cast({},Edm.Guid)", value.as_hyphenated()),
            Literal::Point { longitude, latitude } => write!(f, "geography'POINT({longitude} {latitude})'"),
        }
    }
}

/// A number as .NET writes it: its shortest digits, with an exponent if it has more than `digits` places before the point
/// or is less than 0.0001.
fn shortest(value: f64, plain: &str, digits: i32) -> String {
    let exponent = value.abs().log10().floor() as i32;
    if value == 0.0 || !value.is_finite() || (-4..digits).contains(&exponent) {
        return plain.to_owned();
    }
    let (sign, figures) = plain.strip_prefix('-').map_or(("", plain), |figures| ("-", figures));
    let significant = figures.replace('.', "");
    let significant = significant.trim_start_matches('0').trim_end_matches('0');
    let (first, rest) = significant.split_at(1);
    let point = if rest.is_empty() { "" } else { "." };
    let mark = if exponent < 0 { '-' } else { '+' };
    format!("{sign}{first}{point}{rest}E{mark}{:02}", exponent.abs())
}

/// The wire form of a time: UTC, exactly three fraction digits, the rest cut off.
///
/// As in Datasync's `DateTimeOffset` converter.
#[must_use]
pub fn milliseconds(time: jiff::Timestamp) -> String {
    let cut = jiff::Timestamp::from_millisecond(time.as_nanosecond().div_euclid(1_000_000) as i64).unwrap_or(time);
    format!("{cut:.3}")
}

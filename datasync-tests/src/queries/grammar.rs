//! Random queries: every operator, function and literal, over fields of every kind.

use datasync_core::query::{BinaryOp, Expr, Function, Literal, OrderBy, QueryDescription};
use jiff::{Timestamp, civil};
use uuid::Uuid;

use super::random::Random;

/// The type of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Whole,
    Float,
    Price,
    Grade,
    Seen,
    Day,
    Hour,
    Key,
    Place,
}

const KINDS: [Kind; 10] = [
    Kind::Text,
    Kind::Whole,
    Kind::Float,
    Kind::Price,
    Kind::Grade,
    Kind::Seen,
    Kind::Day,
    Kind::Hour,
    Kind::Key,
    Kind::Place,
];
const NUMBERS: [Kind; 3] = [Kind::Whole, Kind::Float, Kind::Price];
const COMPARISONS: [BinaryOp; 6] = [BinaryOp::Eq, BinaryOp::Ne, BinaryOp::Lt, BinaryOp::Le, BinaryOp::Gt, BinaryOp::Ge];
const ARITHMETIC: [BinaryOp; 5] = [BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul, BinaryOp::Div, BinaryOp::Mod];
const ORDERS: [&str; 13] =
    ["text", "whole", "float", "price", "done", "grade", "seen", "day", "hour", "key", "id", "updatedAt", "TEXT"];

/// Makes queries.
#[derive(Debug)]
pub(super) struct Grammar<'r>(pub(super) &'r mut Random);

fn text(value: &str) -> Literal {
    Literal::Text(value.to_owned())
}

fn field(name: &str) -> Expr {
    Expr::Field(name.to_owned())
}

impl Grammar<'_> {
    /// A whole query. Of a hundred one does not fit the table.
    pub(super) fn query(&mut self) -> QueryDescription {
        let mut query = QueryDescription::default();
        if self.0.chance(90) {
            let depth = self.0.below(4);
            query.filter = Some(self.condition(depth));
        }
        for _ in 0..self.0.pick(&[0, 0, 1, 1, 2, 3]) {
            let field = self.0.pick(&ORDERS).to_owned();
            query.order.push(OrderBy { field, descending: self.0.chance(40) });
        }
        if self.0.chance(20) {
            query.skip = self.0.pick(&[1, 3, 10, 1_000]);
        }
        if self.0.chance(40) {
            query.top = Some(self.0.pick(&[0, 1, 2, 5, 20, 1_000]));
        }
        query.include_deleted = self.0.chance(10);
        if self.0.chance(3) {
            query.parameters.insert("trace".to_owned(), "a b&c".to_owned());
        }
        if self.0.chance(1) {
            query.and(self.wrong());
        }
        query
    }

    /// Something that no table can answer.
    fn wrong(&mut self) -> Expr {
        let wrong = [
            Expr::binary(BinaryOp::Eq, field("nothing"), Expr::Literal(Literal::Long(1))),
            Expr::binary(BinaryOp::Eq, field("text"), Expr::Literal(Literal::Long(1))),
            Expr::binary(BinaryOp::Lt, field("done"), Expr::Literal(Literal::Bool(true))),
            Expr::binary(BinaryOp::Eq, field("grade"), Expr::Literal(text("none"))),
            Expr::binary(BinaryOp::Eq, field("more"), Expr::Literal(text("x"))),
            Expr::Call(Function::Year, vec![field("hour")]),
            Expr::Call(Function::StartsWith, vec![field("grade"), Expr::Literal(text("l"))]),
            Expr::In(Box::new(field("whole")), vec![text("1")]),
            field("text"),
            Expr::Not(Box::new(field("whole"))),
        ];
        wrong[self.0.below(wrong.len())].clone()
    }

    fn condition(&mut self, depth: usize) -> Expr {
        if depth > 0 && self.0.chance(70) {
            let (one, other) = (self.condition(depth - 1), self.condition(depth - 1));
            return match self.0.below(10) {
                0..=5 => Expr::binary(BinaryOp::And, one, other),
                6..=8 => Expr::binary(BinaryOp::Or, one, other),
                _ => Expr::Not(Box::new(one)),
            };
        }
        match self.0.below(20) {
            0 => field("done"),
            1 => Expr::Not(Box::new(field("done"))),
            2 => {
                let value =
                    Expr::Literal(if self.0.chance(20) { Literal::Null } else { Literal::Bool(self.0.chance(50)) });
                Expr::binary(self.0.pick(&COMPARISONS[..2]), field("done"), value)
            }
            3 => {
                let name = self.0.pick(&["text", "whole", "price", "done", "seen", "place", "more", "bytes", "id"]);
                Expr::binary(self.0.pick(&COMPARISONS[..2]), field(name), Expr::Literal(Literal::Null))
            }
            4 | 5 => {
                let function = self.0.pick(&[Function::StartsWith, Function::EndsWith, Function::Contains]);
                Expr::Call(function, vec![self.value(Kind::Text, depth), self.value(Kind::Text, 0)])
            }
            6 | 7 => {
                let kind = self.0.pick(&KINDS[..9]);
                let values = (0..=self.0.below(4)).map(|_| self.literal(kind)).collect();
                Expr::In(Box::new(self.value(kind, depth)), values)
            }
            8..=13 => {
                let kind = self.0.pick(&KINDS[..9]);
                let (one, other) = (field(name(kind)), Expr::Literal(self.literal(kind)));
                let op = self.0.pick(&COMPARISONS);
                if self.0.chance(15) { Expr::binary(op, other, one) } else { Expr::binary(op, one, other) }
            }
            14..=16 => {
                let (one, other) = (self.0.pick(&NUMBERS), self.0.pick(&NUMBERS));
                let op = self.0.pick(&COMPARISONS);
                Expr::binary(op, self.value(one, depth.max(1)), self.value(other, depth))
            }
            _ => {
                let kind = self.0.pick(&KINDS[..9]);
                let op = self.0.pick(&COMPARISONS);
                // Two texts are no members of an enum.
                let other = if kind == Kind::Grade { field("grade") } else { self.value(kind, depth) };
                Expr::binary(op, self.value(kind, depth), other)
            }
        }
    }

    fn value(&mut self, kind: Kind, depth: usize) -> Expr {
        if depth == 0 || self.0.chance(40) {
            return match kind {
                Kind::Text if self.0.chance(15) => field(self.0.pick(&["id", "ID", "Text"])),
                Kind::Seen if self.0.chance(10) => field("updatedAt"),
                Kind::Grade => field("grade"),
                kind if self.0.chance(70) => field(name(kind)),
                kind => Expr::Literal(self.literal(kind)),
            };
        }
        let below = depth - 1;
        match kind {
            Kind::Text => self.text_of(below),
            Kind::Whole if self.0.chance(50) => self.whole_of(below),
            Kind::Whole | Kind::Float | Kind::Price => match self.0.below(4) {
                0 => {
                    let function = self.0.pick(&[Function::Round, Function::Floor, Function::Ceiling]);
                    Expr::Call(function, vec![self.value(kind, below)])
                }
                1 if kind == Kind::Float => {
                    let (one, other) = (self.value(Kind::Place, 0), self.value(Kind::Place, 0));
                    Expr::Call(Function::GeoDistance, vec![one, other])
                }
                _ => {
                    let other = self.0.pick(&NUMBERS);
                    Expr::binary(self.0.pick(&ARITHMETIC), self.value(kind, below), self.value(other, below))
                }
            },
            other => self.value(other, 0),
        }
    }

    fn text_of(&mut self, below: usize) -> Expr {
        use Function::{Concat, Replace, Substring, ToLower, ToUpper, Trim};
        let function = self.0.pick(&[ToLower, ToUpper, Trim, Concat, Substring, Replace]);
        let mut arguments = vec![self.value(Kind::Text, below)];
        match function {
            Concat => arguments.push(self.value(Kind::Text, 0)),
            Replace => arguments.extend([self.value(Kind::Text, 0), self.value(Kind::Text, 0)]),
            Substring => {
                for _ in 0..=self.0.below(2) {
                    arguments.push(Expr::Literal(Literal::Long(self.0.pick(&[-1, 0, 1, 2, 100]))));
                }
            }
            _ => {}
        }
        Expr::Call(function, arguments)
    }

    fn whole_of(&mut self, below: usize) -> Expr {
        use Function::{Day, Hour, IndexOf, Length, Minute, Month, Second, Year};
        match self.0.below(4) {
            0 => Expr::Call(Length, vec![self.value(Kind::Text, below)]),
            1 => Expr::Call(IndexOf, vec![self.value(Kind::Text, below), self.value(Kind::Text, 0)]),
            2 => {
                let kind = self.0.pick(&[Kind::Seen, Kind::Day]);
                Expr::Call(self.0.pick(&[Year, Month, Day]), vec![self.value(kind, 0)])
            }
            _ => {
                let kind = self.0.pick(&[Kind::Seen, Kind::Hour]);
                Expr::Call(self.0.pick(&[Hour, Minute, Second]), vec![self.value(kind, 0)])
            }
        }
    }

    fn literal(&mut self, kind: Kind) -> Literal {
        if self.0.chance(4) {
            return Literal::Null;
        }
        let decimal = |text: &str| Literal::Decimal(text.to_owned());
        match kind {
            Kind::Text => text(
                self.0.pick(&["", "a", "A", "ab", "b'c", "é", "Äx", "a\0b", "😀!", "%_&+#", " x ", "The", "row-1"]),
            ),
            Kind::Whole | Kind::Price | Kind::Float => match self.0.below(4) {
                0 => Literal::Long(self.0.pick(&[0, 1, -1, 2, 3, 42, i64::MAX, i64::MIN, 9_007_199_254_740_993])),
                1 => Literal::Double(self.0.pick(&[0.0, -0.0, 0.1, 0.3, 1.5, -2.5, 19.99, 1e300, 1e-7, 1e22, 42.0])),
                2 => Literal::Single(self.0.pick(&[0.1, 0.5, 19.99, -2.5, 3.0, 1e20])),
                _ => decimal(self.0.pick(&[
                    "0",
                    "0.1",
                    "0.10",
                    "0.3",
                    "-7.25",
                    "19.99",
                    "9007199254740992.5",
                    "12345678901234567890.0123456789",
                    "18446744073709551615",
                    "1.5",
                ])),
            },
            Kind::Grade => text(self.0.pick(&["low", "Medium", "high"])),
            Kind::Seen => {
                let times = ["2024-02-29T12:30:45.123Z", "2024-02-29T12:30:45.1234567Z", "1970-01-01T00:00:00Z"];
                Literal::Timestamp(self.0.pick(&times).parse().unwrap_or(Timestamp::UNIX_EPOCH))
            }
            Kind::Day => {
                let days = [civil::date(2024, 2, 29), civil::date(2023, 12, 31), civil::date(1, 1, 1)];
                Literal::Date(self.0.pick(&days))
            }
            Kind::Hour => {
                let hours = [civil::time(0, 0, 0, 0), civil::time(12, 15, 0, 0), civil::time(12, 15, 0, 900_000)];
                Literal::Time(self.0.pick(&hours))
            }
            Kind::Key => {
                let keys = [0x2938_6779_34b1_464a_bb5b_4053_c2ee_61b3, 1, 2];
                Literal::Uuid(Uuid::from_u128(self.0.pick(&keys)))
            }
            Kind::Place => {
                let (longitude, latitude) = self.0.pick(&[(-97.0, 38.0), (13.4, 52.5), (0.0, -90.0)]);
                Literal::Point { longitude, latitude }
            }
        }
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text",
        Kind::Whole => "whole",
        Kind::Float => "float",
        Kind::Price => "price",
        Kind::Grade => "grade",
        Kind::Seen => "seen",
        Kind::Day => "day",
        Kind::Hour => "hour",
        Kind::Key => "key",
        Kind::Place => "place",
    }
}

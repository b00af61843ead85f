//! Numbers as JSON spells them: compared and added up to the digit, however long they are.

use std::{cmp::Ordering, fmt};

/// Beyond so many zeros a number is written with an exponent.
const MOST_ZEROS: i64 = 38;

/// A decimal number as it was spelled: `digits` times ten to the `exponent`.
#[derive(Clone, Debug)]
pub(crate) struct Number {
    negative: bool,
    /// Without zeros in front; empty for zero.
    digits: String,
    exponent: i64,
}

impl Number {
    /// Reads the text of a JSON number; `None` if it is none.
    pub(crate) fn parse(text: &str) -> Option<Number> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            // Longer exponents are left to those who compare texts.
            Some((mantissa, exponent)) if exponent.len() <= 12 => (mantissa, exponent.parse::<i64>().ok()?),
            Some(_) => return None,
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || mantissa.ends_with('.') {
            return None;
        }
        let digits = format!("{whole}{fraction}").trim_start_matches('0').to_owned();
        Some(Number { negative, digits, exponent: exponent - fraction.len() as i64 })
    }

    pub(crate) fn zero() -> Number {
        Number { negative: false, digits: String::new(), exponent: 0 }
    }

    /// The digits without zeros at the end, and the exponent of the last one.
    fn normal(&self) -> (&str, i64) {
        let digits = self.digits.trim_end_matches('0');
        let zeros = self.digits.len() - digits.len();
        (digits, if digits.is_empty() { 0 } else { self.exponent + zeros as i64 })
    }

    fn signum(&self) -> i8 {
        match (self.digits.is_empty(), self.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }

    /// The order of the numbers without their signs; neither is zero.
    fn compare_size(&self, other: &Number) -> Ordering {
        let ((digits, exponent), (others, other_exponent)) = (self.normal(), other.normal());
        let place = |digits: &str, exponent: i64| digits.len() as i64 + exponent;
        place(digits, exponent).cmp(&place(others, other_exponent)).then_with(|| digits.cmp(others))
    }

    /// The number as a whole one of tens to the `exponent`; `None` if it has too many digits.
    fn at(&self, exponent: i64) -> Option<i128> {
        if self.digits.is_empty() {
            return Some(0);
        }
        let power = u32::try_from(self.exponent - exponent).ok()?;
        let whole = self.digits.parse::<i128>().ok()?.checked_mul(10_i128.checked_pow(power)?)?;
        Some(if self.negative { -whole } else { whole })
    }

    /// The number, if it is whole and not too long.
    pub(crate) fn whole(&self) -> Option<i64> {
        let (digits, exponent) = self.normal();
        let whole = Number { negative: self.negative, digits: digits.to_owned(), exponent }.at(0)?;
        i64::try_from(whole).ok()
    }

    /// `one` and `other`, less what both have in common, with the decimals of the longest; `None` if that has more than
    /// 38 digits.
    pub(crate) fn sum(common: &Number, one: &Number, other: &Number) -> Option<Number> {
        let spelled = [common, one, other].into_iter().filter(|part| !part.digits.is_empty() || part.exponent < 0);
        let exponent = spelled.map(|part| part.exponent).min().unwrap_or(0);
        let sum = one.at(exponent)?.checked_add(other.at(exponent)?)?.checked_sub(common.at(exponent)?)?;
        let digits = sum.unsigned_abs().to_string().trim_start_matches('0').to_owned();
        Some(Number { negative: sum < 0, digits, exponent })
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Number) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Number {}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Number) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Number) -> Ordering {
        match (self.signum(), other.signum()) {
            (1, 1) => self.compare_size(other),
            (-1, -1) => other.compare_size(self),
            (sign, others) => sign.cmp(&others),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.negative && !self.digits.is_empty() {
            f.write_str("-")?;
        }
        let digits = if self.digits.is_empty() { "0" } else { &self.digits };
        match self.exponent {
            0 => f.write_str(digits),
            zeros @ 1..=MOST_ZEROS if !self.digits.is_empty() => write!(f, "{digits}{}", "0".repeat(zeros as usize)),
            exponent if exponent < 0 && exponent >= -MOST_ZEROS => {
                let decimals = exponent.unsigned_abs() as usize;
                let padded = format!("{digits:0>width$}", width = decimals + 1);
                let (whole, fraction) = padded.split_at(padded.len() - decimals);
                write!(f, "{whole}.{fraction}")
            }
            _ if self.digits.is_empty() => f.write_str("0"),
            exponent => write!(f, "{digits}e{exponent}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number {
        Number::parse(text).unwrap_or_else(|| panic!("{text} is a number"))
    }

    #[test]
    fn numbers_compare_by_value_to_the_last_digit() {
        for (one, order, other) in [
            ("1.10", Ordering::Equal, "1.1"),
            ("1e2", Ordering::Equal, "100.00"),
            ("-0", Ordering::Equal, "0.000"),
            ("0e999", Ordering::Equal, "0"),
            ("18446744073709551615", Ordering::Greater, "18446744073709551614"),
            ("9007199254740993", Ordering::Greater, "9007199254740992"),
            ("0.1", Ordering::Less, "0.1000000000000000055"),
            ("-2", Ordering::Less, "-1.9"),
            ("-1", Ordering::Less, "0"),
            ("99", Ordering::Less, "100"),
            ("1e-400", Ordering::Greater, "0"),
            ("1e999999999", Ordering::Greater, "9e999999998"),
        ] {
            assert_eq!(number(one).cmp(&number(other)), order, "{one} {other}");
            assert_eq!(number(other).cmp(&number(one)), order.reverse(), "{one} {other}");
        }
        for text in ["", "-", "+1", ".5", "1.", "1e", "1e9999999999999", "NaN", "1,0", "0x1", "--1"] {
            assert!(Number::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn sums_keep_every_digit_and_the_longest_spelling() {
        for (common, one, other, sum) in [
            ("5", "6", "7", "8"),
            ("0", "9007199254740993", "1", "9007199254740994"),
            ("1.00", "1.10", "2.20", "2.30"),
            ("0.1", "0.3", "0.2", "0.4"),
            ("3", "1", "1", "-1"),
            ("0.5", "0.5", "0", "0.0"),
            ("0", "1e3", "1", "1001"),
            ("0", "1e300", "2e300", "3e300"),
            ("0", "-0.05", "0.00", "-0.05"),
            ("0", "9223372036854775807", "9223372036854775807", "18446744073709551614"),
        ] {
            let found = Number::sum(&number(common), &number(one), &number(other));
            assert_eq!(found.map(|sum| sum.to_string()).as_deref(), Some(sum), "{common} {one} {other}");
        }
        assert!(Number::sum(&Number::zero(), &number("1e300"), &number("1")).is_none());
        assert!(Number::sum(&Number::zero(), &number(&"9".repeat(40)), &number("1")).is_none());
    }
}

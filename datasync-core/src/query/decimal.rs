//! Decimal numbers, exact: up to 38 digits, as many as the databases of the originals keep.
//!
//! A number is ± digits × 10^exponent, its digits without a zero at either end, so that a value has one form.

use std::cmp::Ordering;

/// How many digits a number has at most.
const DIGITS: u32 = 38;
/// How many places behind the point a division goes, as in .NET.
const PLACES: i32 = 28;
/// The greatest distance from zero of an exponent: what lies beyond is no number that anybody writes.
const EXPONENT: i32 = 100_000;

/// Whether a text is a number, as JSON writes it, that is kept to the digit: of at most 38 digits, zeros at its ends not counted.
///
/// ```
/// use datasync_core::query::is_decimal;
/// assert!(is_decimal("-12345678901234567890.123456789") && !is_decimal("1e") && !is_decimal(&"7".repeat(39)));
/// ```
#[must_use]
pub fn is_decimal(text: &str) -> bool {
    Decimal::parse_exact(text).is_some()
}

/// A decimal number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decimal {
    negative: bool,
    digits: u128,
    exponent: i32,
}

/// A number that was read, and whether all of its digits were kept.
struct Read {
    decimal: Decimal,
    exact: bool,
}

impl Decimal {
    pub(crate) const ZERO: Decimal = Decimal { negative: false, digits: 0, exponent: 0 };

    /// ± digits × 10^exponent; `None` if it has too many digits.
    fn new(negative: bool, mut digits: u128, mut exponent: i32) -> Option<Decimal> {
        if digits == 0 {
            return Some(Decimal::ZERO);
        }
        while digits.is_multiple_of(10) {
            digits /= 10;
            exponent += 1;
        }
        let fits = digits < 10_u128.pow(DIGITS) && exponent.abs() <= EXPONENT;
        fits.then_some(Decimal { negative, digits, exponent })
    }

    pub(super) fn of_int(value: i128) -> Option<Decimal> {
        Decimal::new(value < 0, value.unsigned_abs(), 0)
    }

    /// The shortest decimal that stands for the number; `None` if it is infinite or not a number.
    pub(super) fn of_float(value: f64) -> Option<Decimal> {
        // The shortest digits are what Rust writes.
        Decimal::parse(&format!("{value:e}"))
    }

    /// Reads a number as JSON writes it. Digits behind the 38th are rounded, halves to the even neighbour.
    pub(super) fn parse(text: &str) -> Option<Decimal> {
        Decimal::read(text).map(|read| read.decimal)
    }

    /// [`parse`](Decimal::parse), and `None` if the number has more digits than are kept.
    pub(crate) fn parse_exact(text: &str) -> Option<Decimal> {
        Decimal::read(text).filter(|read| read.exact).map(|read| read.decimal)
    }

    fn read(text: &str) -> Option<Read> {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (figures, power) = match rest.split_once(['e', 'E']) {
            Some((figures, power)) => (figures, power.parse::<i32>().ok()?),
            None => (rest, 0),
        };
        let (whole, fraction) = figures.split_once('.').unwrap_or((figures, ""));
        let all = whole.bytes().chain(fraction.bytes());
        if whole.is_empty() && fraction.is_empty() || !all.clone().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (mut digits, mut dropped) = (0_u128, 0_i32);
        // What was dropped: its first digit, and whether anything but zeros came behind that.
        let (mut first, mut more) = (0, false);
        for digit in all.map(|byte| u128::from(byte - b'0')) {
            if dropped == 0 && digits < 10_u128.pow(DIGITS - 1) {
                digits = digits * 10 + digit;
            } else {
                if dropped == 0 {
                    first = digit;
                } else {
                    more |= digit > 0;
                }
                dropped = dropped.checked_add(1)?;
            }
        }
        if first > 5 || first == 5 && (more || digits % 2 == 1) {
            digits += 1;
        }
        let places = i32::try_from(fraction.len()).ok()?;
        let exponent = power.checked_sub(places)?.checked_add(dropped)?;
        Some(Read { decimal: Decimal::new(negative, digits, exponent)?, exact: first == 0 && !more })
    }

    pub(super) fn to_f64(self) -> f64 {
        // Reading a text is the one way to the nearest float.
        let sign = if self.negative { "-" } else { "" };
        format!("{sign}{}e{}", self.digits, self.exponent).parse().unwrap_or(f64::NAN)
    }

    /// The number, if it is a whole one.
    pub(crate) fn to_int(self) -> Option<i128> {
        let power = 10_u128.checked_pow(u32::try_from(self.exponent).ok()?)?;
        let value = i128::try_from(self.digits.checked_mul(power)?).ok()?;
        Some(if self.negative { -value } else { value })
    }

    /// The number as JSON writes it, with at least so many places behind the point.
    pub(crate) fn to_text(self, places: usize) -> String {
        let sign = if self.negative { "-" } else { "" };
        if self.exponent.unsigned_abs() > DIGITS {
            return format!("{sign}{}e{}", self.digits, self.exponent);
        }
        let behind = usize::try_from(-self.exponent).unwrap_or(0);
        let zeros = "0".repeat(usize::try_from(self.exponent).unwrap_or(0));
        let digits = format!("{:0>width$}{zeros}", self.digits, width = behind + 1);
        let (whole, fraction) = digits.split_at(digits.len() - behind);
        let point = if fraction.is_empty() && places == 0 { "" } else { "." };
        format!("{sign}{whole}{point}{fraction:0<places$}")
    }

    /// How many digits there are before the point; less than 1 for 0.1 and smaller.
    fn magnitude(self) -> i32 {
        self.digits.checked_ilog10().map_or(0, |log| log as i32 + 1 + self.exponent)
    }

    /// The digits of both, and their common exponent; `None` if one would have too many.
    fn aligned(self, other: Decimal) -> Option<(u128, u128, i32)> {
        let exponent = match (self.digits, other.digits) {
            (0, _) => other.exponent,
            (_, 0) => self.exponent,
            _ => self.exponent.min(other.exponent),
        };
        let digits = |number: Decimal| match number.digits {
            0 => Some(0),
            digits => digits.checked_mul(10_u128.checked_pow(u32::try_from(number.exponent - exponent).ok()?)?),
        };
        Some((digits(self)?, digits(other)?, exponent))
    }

    /// The sum; `None` if it has too many digits.
    pub(crate) fn add(self, other: Decimal) -> Option<Decimal> {
        let (one, other_digits, exponent) = self.aligned(other)?;
        let (negative, digits) = match (self.negative == other.negative, one >= other_digits) {
            (true, _) => (self.negative, one.checked_add(other_digits)?),
            (false, true) => (self.negative, one - other_digits),
            (false, false) => (other.negative, other_digits - one),
        };
        Decimal::new(negative, digits, exponent)
    }

    pub(crate) fn negated(self) -> Decimal {
        Decimal { negative: !self.negative && self.digits > 0, ..self }
    }

    /// The product; `None` if it has too many digits.
    pub(super) fn mul(self, other: Decimal) -> Option<Decimal> {
        let digits = self.digits.checked_mul(other.digits)?;
        Decimal::new(self.negative != other.negative, digits, self.exponent + other.exponent)
    }

    /// The quotient to 28 places, halves to the even neighbour; `None` if the divisor is zero or there are too many digits.
    pub(super) fn div(self, other: Decimal) -> Option<Decimal> {
        if other.digits == 0 {
            return None;
        }
        let (mut quotient, mut rest) = (self.digits / other.digits, self.digits % other.digits);
        let mut exponent = self.exponent - other.exponent;
        while rest > 0 && exponent > -PLACES {
            let (digit, next) = times_ten(rest, other.digits);
            match quotient.checked_mul(10).map(|quotient| quotient + digit) {
                Some(longer) if longer < 10_u128.pow(DIGITS) => quotient = longer,
                _ => break,
            }
            rest = next;
            exponent -= 1;
        }
        // The next digit and what comes behind it say where the rest belongs.
        let (digit, behind) = times_ten(rest, other.digits);
        if digit > 5 || digit == 5 && (behind > 0 || quotient % 2 == 1) {
            quotient += 1;
        }
        Decimal::new(self.negative != other.negative, quotient, exponent)
    }

    /// What is left of a division whose quotient is a whole number; it has the sign of the number that is divided.
    pub(super) fn rem(self, other: Decimal) -> Option<Decimal> {
        let (one, other, exponent) = self.aligned(other)?;
        Decimal::new(self.negative, one.checked_rem(other)?, exponent)
    }

    /// The greatest whole number that is not greater.
    pub(super) fn floor(self) -> Decimal {
        self.whole(|_, _, fraction| self.negative && fraction > 0)
    }

    /// The least whole number that is not less.
    pub(super) fn ceiling(self) -> Decimal {
        self.whole(|_, _, fraction| !self.negative && fraction > 0)
    }

    /// The nearest whole number; halves go to the even neighbour, as in .NET's `Math.Round`.
    pub(super) fn round(self) -> Decimal {
        self.whole(|whole, unit, fraction| {
            // The fraction is less than 10^38, so that twice of it fits.
            match (fraction * 2).cmp(&unit) {
                Ordering::Less => false,
                Ordering::Equal => whole % 2 == 1,
                Ordering::Greater => true,
            }
        })
    }

    /// The part before the point, one farther from zero if `away` says so of it, of 1 in units of the last place, and of the
    /// part behind the point in the same units.
    fn whole(self, away: impl Fn(u128, u128, u128) -> bool) -> Decimal {
        if self.exponent >= 0 {
            return self;
        }
        let places = self.exponent.unsigned_abs();
        let (whole, unit, fraction) = match 10_u128.checked_pow(places) {
            Some(unit) => (self.digits / unit, unit, self.digits % unit),
            // The number is far below a half.
            None => (0, u128::MAX / 2, u128::from(self.digits > 0)),
        };
        let whole = whole + u128::from(away(whole, unit, fraction));
        Decimal::new(self.negative, whole, 0).unwrap_or(self)
    }

    /// Bytes in the order of the numbers, none of which is the beginning of another number's: a byte for the sign, and for
    /// other numbers than zero the magnitude, two digits a byte, and an end; of negative ones the complement of those.
    pub(super) fn write_key(self, key: &mut Vec<u8>) {
        if self.digits == 0 {
            return key.push(1);
        }
        key.push(if self.negative { 0 } else { 2 });
        let from = key.len();
        key.extend((self.magnitude().cast_unsigned() ^ (1 << 31)).to_be_bytes());
        let mut places = self.digits.ilog10() / 2 * 2;
        // An odd number of digits ends with a pair whose second digit is a zero.
        let mut digits = if self.digits.ilog10().is_multiple_of(2) { self.digits * 10 } else { self.digits };
        loop {
            let unit = 10_u128.pow(places);
            key.push((digits / unit) as u8 + 1);
            digits %= unit;
            if places == 0 {
                break;
            }
            places -= 2;
        }
        key.push(0);
        if self.negative {
            key[from..].iter_mut().for_each(|byte| *byte = !*byte);
        }
    }
}

/// The digit and the rest of `rest * 10 / divisor`. Both numbers have at most 38 digits, so that twice one fits.
fn times_ten(rest: u128, divisor: u128) -> (u128, u128) {
    let (mut digit, mut sum) = (0, 0);
    for _ in 0..10 {
        sum += rest;
        if sum >= divisor {
            sum -= divisor;
            digit += 1;
        }
    }
    (digit, sum)
}

impl Ord for Decimal {
    fn cmp(&self, other: &Decimal) -> Ordering {
        let sign = |number: &Decimal| match (number.digits, number.negative) {
            (0, _) => 0,
            (_, true) => -1,
            (_, false) => 1,
        };
        let order = sign(self).cmp(&sign(other));
        if order != Ordering::Equal || self.digits == 0 {
            return order;
        }
        let absolute = self.magnitude().cmp(&other.magnitude()).then_with(|| {
            // Of one magnitude the one with the greater exponent has fewer digits: with zeros both have as many.
            let zeros = |number: &Decimal, least: i32| number.digits * 10_u128.pow((number.exponent - least) as u32);
            let least = self.exponent.min(other.exponent);
            zeros(self, least).cmp(&zeros(other, least))
        });
        if self.negative { absolute.reverse() } else { absolute }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Decimal) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Decimal {
        Decimal::parse(text).unwrap_or_else(|| panic!("{text} is no number"))
    }

    const SORTED: [&str; 27] = [
        "-1e400",
        "-99999999999999999999999999999999999999",
        "-9223372036854775809",
        "-9223372036854775808",
        "-10.5",
        "-10.1",
        "-10.01",
        "-10",
        "-9.99",
        "-1",
        "-0.1",
        "-0.09",
        "-1e-300",
        "0",
        "1e-300",
        "0.01",
        "0.1",
        "0.10000000000000000000000000000000000001",
        "0.2",
        "1",
        "1.1",
        "9",
        "10",
        "12345678901234567890.123",
        "12345678901234567890.1231",
        "18446744073709551615",
        "1e400",
    ];

    #[test]
    fn numbers_have_one_order_and_their_keys_the_same() {
        let keys: Vec<Vec<u8>> = SORTED
            .iter()
            .map(|text| {
                let mut key = Vec::new();
                of(text).write_key(&mut key);
                key
            })
            .collect();
        for (one, one_text) in SORTED.iter().enumerate() {
            for (other, other_text) in SORTED.iter().enumerate() {
                assert_eq!(of(one_text).cmp(&of(other_text)), one.cmp(&other), "{one_text} and {other_text}");
                assert_eq!(keys[one].cmp(&keys[other]), one.cmp(&other), "{one_text} and {other_text}");
                assert!(one == other || !keys[other].starts_with(&keys[one]), "{one_text} and {other_text}");
            }
        }
    }

    #[test]
    fn a_number_has_one_form() {
        for (one, other) in [("1", "1.000"), ("-0", "0.0"), ("1e3", "1000"), ("0.5e-1", "+.05"), ("100", "1e2")] {
            assert_eq!(of(one), of(other));
        }
        for text in ["", "-", ".", "1.2.3", "0x1", "1e", "inf", "NaN", "1 ", "1e99999999999", "1e200000"] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
        let long = "1".repeat(38);
        assert_eq!(Decimal::parse_exact(&long), Some(of(&long)));
        assert_eq!(Decimal::parse_exact(&format!("0.{long}")), Some(of(&format!("0.{long}"))));
        assert_eq!(Decimal::parse_exact(&format!("{long}1")), None);
        assert_eq!(of(&format!("{long}5")), of(&format!("{}20", "1".repeat(37))), "halves to the even neighbour");
        assert_eq!(of(&format!("{}25", "1".repeat(37))), of(&format!("{}20", "1".repeat(37))));
        assert_eq!(of(&format!("{}251", "1".repeat(37))), of(&format!("{}300", "1".repeat(37))));
        assert_eq!(of(&"9".repeat(39)), of("1e39"));
    }

    #[test]
    fn a_number_is_written_with_the_places_that_are_asked_for() {
        for (text, places, written) in [
            ("2.3", 0, "2.3"),
            ("2.3", 2, "2.30"),
            ("0", 0, "0"),
            ("0", 2, "0.00"),
            ("-0.05", 1, "-0.05"),
            ("1e3", 0, "1000"),
            ("1e3", 1, "1000.0"),
            ("1e-38", 0, "0.00000000000000000000000000000000000001"),
            ("12345678901234567890.25", 1, "12345678901234567890.25"),
            ("1e300", 2, "1e300"),
            ("-15e-60", 2, "-15e-60"),
        ] {
            assert_eq!(of(text).to_text(places), written);
            assert_eq!(of(written), of(text));
        }
    }

    #[test]
    fn arithmetic_is_exact() {
        let (add, mul, div, rem) = (Decimal::add, Decimal::mul, Decimal::div, Decimal::rem);
        type Operation = fn(Decimal, Decimal) -> Option<Decimal>;
        let cases: [(Operation, &str, &str, &str); 19] = [
            (add, "0.1", "0.2", "0.3"),
            (add, "1", "-1", "0"),
            (add, "-1.5", "1", "-0.5"),
            (add, "9999999999999999999.99", "0.01", "1e19"),
            (add, "0", "1e300", "1e300"),
            (mul, "1.1", "1.1", "1.21"),
            (mul, "-12345678901.5", "2", "-24691357803"),
            (mul, "1e300", "1e-300", "1"),
            (div, "1", "3", "0.3333333333333333333333333333"),
            (div, "2", "3", "0.6666666666666666666666666667"),
            (div, "-1", "8", "-0.125"),
            (div, "5", "2", "2.5"),
            (div, "1e30", "3", "333333333333333333333333333333.33333333"),
            (div, "1", "99999999999999999999999999999999999999", "0"),
            (div, "7", "7e30", "1e-30"),
            (rem, "7.5", "2", "1.5"),
            (rem, "-7.5", "2", "-1.5"),
            (rem, "1", "0.3", "0.1"),
            (rem, "0.3", "7", "0.3"),
        ];
        for (operation, one, other, expected) in cases {
            assert_eq!(operation(of(one), of(other)), Some(of(expected)), "{one} {other}");
        }
        for operation in [div, rem] {
            assert_eq!(operation(of("1"), of("0")), None);
        }
        assert_eq!(add(of("1e30"), of("1e-30")), None, "too many digits");
        assert_eq!(mul(of(&"7".repeat(30)), of(&"7".repeat(30))), None);
        assert_eq!(add(of(&"9".repeat(38)), of("1")), Some(of("1e38")));
        assert_eq!(add(of(&"9".repeat(38)), of("2")), None);
    }

    #[test]
    fn numbers_are_rounded_as_by_dotnet() {
        for (text, floor, ceiling, round) in [
            ("2.5", "2", "3", "2"),
            ("3.5", "3", "4", "4"),
            ("-2.5", "-3", "-2", "-2"),
            ("2.51", "2", "3", "3"),
            ("-0.4", "-1", "0", "0"),
            ("0.5", "0", "1", "0"),
            ("7", "7", "7", "7"),
            ("1e300", "1e300", "1e300", "1e300"),
            ("1e-300", "0", "1", "0"),
            ("-1e-40", "-1", "0", "0"),
            ("0.99999999999999999999999999999999999999", "0", "1", "1"),
        ] {
            let all = [of(text).floor(), of(text).ceiling(), of(text).round()];
            assert_eq!(all, [of(floor), of(ceiling), of(round)], "{text}");
        }
    }

    #[test]
    fn numbers_become_others_and_come_back() {
        for value in [0, 1, -1, i128::from(i64::MIN), i128::from(u64::MAX), 1_000] {
            assert_eq!(Decimal::of_int(value).unwrap().to_int(), Some(value));
        }
        for value in [0.0, 0.1, -2.5, 1e22, 5e-324, f64::MAX, 9_007_199_254_740_993.0] {
            assert_eq!(Decimal::of_float(value).unwrap().to_f64(), value);
        }
        assert_eq!(Decimal::of_float(0.1), Some(of("0.1")));
        assert_eq!((Decimal::of_float(f64::NAN), Decimal::of_float(f64::INFINITY)), (None, None));
        assert_eq!((of("0.5").to_int(), of("1e39").to_int()), (None, None));
    }
}

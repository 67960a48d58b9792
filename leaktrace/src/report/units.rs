//! Numbers as people read them.

/// Bytes with three digits or so: "512 B", "1.5 KiB", "23 MiB".
pub fn bytes(value: f64) -> String {
    let mut value = value;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value.abs() < 999.5 {
            return format!("{} {unit}", digits(value));
        }
        value /= 1024.0;
    }
    format!("{} TiB", digits(value))
}

/// A count: "999", "12.3k", "4.56M".
pub fn count(value: f64) -> String {
    let mut value = value;
    for unit in ["", "k", "M"] {
        if value.abs() < 999.5 {
            return format!("{}{unit}", digits(value));
        }
        value /= 1000.0;
    }
    format!("{}G", digits(value))
}

/// A count with all its digits: "12,411".
pub fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A span of time: "12 s", "3 min", "1 h 20 min", "4 days".
pub fn span(seconds: f64) -> String {
    if seconds < 0.9995 {
        return format!("{} ms", digits(seconds * 1000.0));
    }
    let whole = seconds.round();
    match whole {
        ..100.0 => format!("{} s", digits(seconds)),
        ..6000.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => {
            let minutes = (seconds / 60.0).round() as u64;
            format!("{} h {:02} min", minutes / 60, minutes % 60)
        }
        ..63_072_000.0 => format!("{:.0} days", seconds / 86_400.0),
        _ => "years".to_owned(),
    }
}

/// A rate in bytes: per second, or per hour when it is small.
pub fn bytes_rate(per_second: f64) -> String {
    let (value, unit) = scale(per_second);
    format!("{}{unit}", bytes(value))
}

/// A rate in blocks: "50 blocks/s", or per hour when it is small.
pub fn blocks_rate(per_second: f64) -> String {
    let (value, unit) = scale(per_second);
    format!("{} blocks{unit}", count(value))
}

fn scale(per_second: f64) -> (f64, &'static str) {
    if per_second != 0.0 && per_second.abs() < 0.5 { (per_second * 3600.0, "/h") } else { (per_second, "/s") }
}

/// A share as percent: "0 %", "99.8 %".
pub fn percent(share: f64) -> String {
    let value = share * 100.0;
    // Never round to a bound that was not reached.
    let text = if value > 99.9 && value < 100.0 { "99.9".to_owned() } else { digits(value) };
    format!("{text} %")
}

/// At most three significant digits, without trailing zeros.
fn digits(value: f64) -> String {
    let places = match value.abs() {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.places$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_picked_so_that_few_digits_tell() {
        let cases = [
            (bytes(0.0), "0 B"),
            (bytes(999.0), "999 B"),
            (bytes(1000.0), "0.98 KiB"),
            (bytes(1536.0), "1.5 KiB"),
            (bytes(-3.0 * 1048576.0), "-3 MiB"),
            (bytes(1e15), "909 TiB"),
            (count(999.6), "1k"),
            (count(12_345.0), "12.3k"),
            (span(0.0042), "4.2 ms"),
            (span(59.96), "60 s"),
            (span(125.0), "2 min"),
            (span(7_265.0), "2 h 01 min"),
            (span(864_000.0), "10 days"),
            (span(1e12), "years"),
            (bytes_rate(0.01), "36 B/h"),
            (bytes_rate(5120.0), "5 KiB/s"),
            (blocks_rate(0.0), "0 blocks/s"),
            (percent(0.99999), "99.9 %"),
            (percent(1.0), "100 %"),
        ];
        for (got, want) in cases {
            assert_eq!(got, want);
        }
    }
}

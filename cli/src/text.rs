//! Numbers and times as a person reads them. Pure.

use jiff::Timestamp;

/// `1.5 GiB`, as `ls -h` would.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `3,008`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `2026-11-24T13:05:00Z`, of nanoseconds since 1970; whole seconds, which is what most origins have.
pub fn time(unix_nanos: i64) -> String {
    Timestamp::from_second(unix_nanos.div_euclid(1_000_000_000)).map_or_else(|_| "?".into(), |time| time.to_string())
}

/// `67 %`, of what cannot be more than all of it.
pub fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".into();
    }
    let share = (part as f64 / whole as f64 * 100.0).min(100.0);
    // All is only what is all, and nothing what is nothing.
    let share = match share.round() {
        100.0 if part < whole => 99.0,
        0.0 if part > 0 => 1.0,
        rounded => rounded,
    };
    format!("{share:.0} %")
}

/// `names: values` below each other, the values aligned.
pub fn facts(facts: &[(&str, String)]) -> String {
    facts
        .iter()
        .map(|(name, value)| format!("{name:>12}  {value}\n"))
        .collect()
}

/// Rows below headings, aligned: at the right below a heading that begins with `>`.
pub fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let is_right = headings.map(|heading| heading.starts_with('>'));
    let headings = headings.map(|heading| heading.trim_start_matches('>').to_owned());
    let all: Vec<&[String; N]> = std::iter::once(&headings).chain(rows).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &&[String; N]| {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = widths[column];
            if is_right[column] {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        let cells: Vec<String> = cells.collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    all.iter().map(line).collect()
}

/// A name as it can stand on a terminal: no control characters, which could move the cursor or worse.
pub fn name(name: &str) -> String {
    if name.chars().any(char::is_control) {
        name.escape_debug().to_string()
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_a_unit_that_fits() {
        for (value, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (644_245_094, "614.4 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(value), text);
        }
    }

    #[test]
    fn counts_are_grouped() {
        for (value, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(value), text);
        }
    }

    #[test]
    fn a_share_is_all_only_when_it_is_all() {
        for (part, whole, text) in [
            (0, 0, "-"),
            (0, 9, "0 %"),
            (1, 1_000_000, "1 %"),
            (999_999, 1_000_000, "99 %"),
            (2, 3, "67 %"),
            (4, 3, "100 %"),
        ] {
            assert_eq!(share(part, whole), text, "{part} of {whole}");
        }
    }

    #[test]
    fn a_table_is_aligned_and_ends_with_its_words() {
        let rows = [
            ["größe".to_owned(), "1".to_owned(), "a b".to_owned()],
            ["b".to_owned(), "1000".to_owned(), String::new()],
        ];
        assert_eq!(
            table(["NAME", ">COUNT", "WHY"], &rows),
            "NAME   COUNT  WHY\ngröße      1  a b\nb       1000\n"
        );
    }

    #[test]
    fn times_are_in_utc_and_whole_seconds() {
        assert_eq!(time(1_795_525_500_999_999_999), "2026-11-24T13:05:00Z");
        assert_eq!(time(-1), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn a_name_cannot_command_the_terminal() {
        assert_eq!(name("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(name("größe 数据"), "größe 数据");
    }
}

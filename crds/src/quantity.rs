//! Quantities as this API accepts them: whole numbers with a binary or decimal suffix.

/// The bytes of a quantity such as `100Gi` or `500M`; `None` when it is none or too large.
pub fn bytes_of(quantity: &str) -> Option<u64> {
    let digits = quantity.find(|c: char| !c.is_ascii_digit()).unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(digits);
    let unit: u64 = match suffix {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::bytes_of;

    #[test]
    fn quantities_are_bytes() {
        for (text, bytes) in [
            ("1", Some(1)),
            ("10k", Some(10_000)),
            ("2Gi", Some(2 << 30)),
            ("1.5Gi", None),
            ("", None),
            ("Gi", None),
            ("99999999999Pi", None),
            ("5m", None),
        ] {
            assert_eq!(bytes_of(text), bytes, "{text}");
        }
    }
}

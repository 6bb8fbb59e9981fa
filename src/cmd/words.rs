//! Numbers and tables as people read them.

use jiff::Timestamp;
use palinode_cache::{Usage, Usages};

/// `3 results`, `1 result`.
pub(super) fn count(number: usize, word: &str) -> String {
    if number == 1 { format!("1 {word}") } else { format!("{number} {word}s") }
}

/// `12 B`, `1.5 KiB`, `3.2 GiB`.
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// A time, as `why` tells it.
pub(super) fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A line for each part of a cache: how many files of which kind, and their size.
pub(super) fn usages(usages: &Usages) -> String {
    let line = |words: &str, usage: Usage| vec![format!("  {words}"), usage.files.to_string(), size(usage.bytes)];
    let mut lines: Vec<_> = usages.0.iter().map(|(part, usage)| line(part.words(), *usage)).collect();
    lines.push(line("together", usages.total()));
    table(&lines, &[1, 2])
}

/// Cells in columns as wide as need be; those of `right` are flush right.
pub(super) fn table(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let wide = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| wide(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cell = |(i, cell): (usize, &String)| {
            let width = widths[i];
            if right.contains(&i) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        };
        let line = row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        let sizes = [0, 999, 1000, 1536, 1 << 20, 5_000_000_000].map(size);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "4.7 GiB"]);
        assert_eq!([count(1, "run"), count(2, "run"), count(0, "run")], ["1 run", "2 runs", "0 runs"]);
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "1".to_owned(), "x".to_owned()], vec!["long".to_owned(), "10".to_owned()]];
        assert_eq!(table(&rows, &[1]), "a      1  x\nlong  10\n");
    }
}

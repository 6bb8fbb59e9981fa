//! How models begin the items of a list.

/// Where in a line that holds more than its beginning the item `number` begins: behind white space, after the end of a
/// sentence or of an announcement.
pub(super) fn inline(text: &str, number: usize) -> Option<usize> {
    [format!("{number}. "), format!("{number}) "), format!("({number}) ")].iter().find_map(|mark| {
        let at = text.find(mark.as_str()).filter(|&at| at > 0)?;
        let before = text[..at].trim_end();
        let behind_space = before.len() < at;
        // What is only a marker so far is not an item.
        let content = marker(before).map_or(before, |(length, _)| &before[length..]);
        (behind_space && before.ends_with(['.', '!', '?', ':', ';', ',', '"']) && !content.trim().is_empty())
            .then_some(at)
    })
}

/// The length of the marker that a line begins with, and its number: `1.`, `1)`, `(1)`, `1:`, `#1`, `**1.**`, `a)`, `-`,
/// `*`, a bullet, `Statement 1:`.
pub(super) fn marker(line: &str) -> Option<(usize, Option<usize>)> {
    if let Some(length) = enclosed(line) {
        return Some((length, None));
    }
    let bold = line.len() - line.trim_start_matches(['*', '_', '#']).len();
    for skip in [0, bold] {
        let rest = &line[skip..];
        if let Some((length, number)) = numbered(rest) {
            let behind = &rest[length..];
            // `**1.** text`: the marker alone is bold.
            let closing = if skip > 0 && behind.starts_with("**") { 2 } else { 0 };
            let length = skip + length + closing;
            let space = line[length..].len() - line[length..].trim_start().len();
            // "1.5 million" is no marker.
            if space > 0 || line.len() == length || !line[length..].starts_with(|c: char| c.is_ascii_digit()) {
                return Some((length + space, number));
            }
        }
    }
    let mut chars = line.chars();
    let bullet =
        chars.next().filter(|c| "-*+\u{2022}\u{2023}\u{25e6}\u{25aa}\u{25cf}\u{2013}\u{2014}\u{b7}".contains(*c))?;
    let rest = chars.as_str();
    let space = rest.len() - rest.trim_start().len();
    (space > 0 || rest.is_empty() || "\u{2022}\u{25cf}\u{25aa}".contains(bullet))
        .then(|| (bullet.len_utf8() + space, None))
}

/// The length of a number in a circle, on a key, or in a table's first cell, with the space behind it.
fn enclosed(line: &str) -> Option<usize> {
    let first = line.chars().next()?;
    let rest = if matches!(first, '\u{2460}'..='\u{2473}' | '\u{2776}'..='\u{2793}') {
        &line[first.len_utf8()..]
    } else if first.is_ascii_digit() {
        let rest = line[1..].strip_prefix('\u{fe0f}').unwrap_or(&line[1..]);
        rest.strip_prefix('\u{20e3}')?
    } else {
        let cell = line.strip_prefix('|')?.trim_start();
        let digits = cell.len() - cell.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        cell[digits..].trim_start_matches(['.', ')']).trim_start().strip_prefix('|').filter(|_| digits > 0)?
    };
    Some(line.len() - rest.trim_start().len())
}

/// A number with what sets it apart, perhaps behind a word.
fn numbered(text: &str) -> Option<(usize, Option<usize>)> {
    let words = ["counterfactual statement", "counterfactual", "statement", "option", "answer"];
    let word = words.iter().find_map(|word| {
        let (start, rest) = (text.get(..word.len())?, text.get(word.len()..)?);
        (start.eq_ignore_ascii_case(word) && rest.starts_with([' ', '#']))
            .then(|| word.len() + (rest.len() - rest.trim_start_matches([' ', '#']).len()))
    });
    let start = word.unwrap_or(0);
    let rest = &text[start..];
    let open = rest.chars().next().filter(|c| "([#".contains(*c)).map_or(0, char::len_utf8);
    let digits: String = rest[open..].chars().take_while(char::is_ascii_digit).take(4).collect();
    let letter =
        rest[open..].chars().next().filter(char::is_ascii_lowercase).filter(|_| digits.is_empty() && word.is_none());
    // ii to viii, and whatever else is written so.
    let roman = rest[open..].len() - rest[open..].trim_start_matches(['i', 'v', 'x']).len();
    let length = match digits.len() {
        0 if letter.is_some() && (2..5).contains(&roman) => roman,
        0 => usize::from(letter.is_some()),
        digits => digits,
    };
    if length == 0 {
        return None;
    }
    let behind = &rest[open + length..];
    let closes: &[&str] = match (&rest[..open], letter.is_some()) {
        ("(", _) => &[")"],
        ("[", false) => &["]"],
        // "a. She leads" begins an item, "a. m." doesn't.
        ("", true) if capital(behind.strip_prefix('.').unwrap_or_default()) => &[")", "."],
        ("", true) => &[")"],
        ("#", false) => &[":", ".", ")", ""],
        ("", false) => &[".)", ".", ")", ":", " -", "-", " \u{2013}"],
        _ => return None,
    };
    let close = closes.iter().find(|close| behind.starts_with(**close))?;
    Some((start + open + length + close.len(), digits.parse().ok()))
}

/// Whether a capital letter follows white space, perhaps in quotes.
fn capital(text: &str) -> bool {
    let rest = text.trim_start().trim_start_matches(['"', '\u{201c}', '*']);
    text.starts_with(char::is_whitespace) && rest.starts_with(char::is_uppercase)
}

//! The model: its file, its tokens, its probability.

use std::collections::HashMap;

use unicode_normalization::char::is_combining_mark;

/// Tokens that a reason names at most.
const REASONS: usize = 5;

/// A linear model of one or more folds.
#[derive(Debug)]
pub(super) struct LinearModel {
    intercepts: Vec<f64>,
    /// Platt's a and b of each fold.
    platt: Vec<(f64, f64)>,
    /// By token: the number of its row.
    rows: HashMap<String, usize>,
    /// `[tokens, folds]`.
    coefficients: Vec<f64>,
}

/// What the model says of a text.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) probability: f64,
    /// How many of its tokens the model knows.
    pub(super) known: usize,
    /// The tokens that speak most for toxic, the strongest first.
    pub(super) reasons: Vec<String>,
}

impl LinearModel {
    /// Reads the table.
    ///
    /// # Errors
    /// With the line that isn't as it should be, and what was expected.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut intercepts = None;
        let mut platt = None;
        let mut header = false;
        let mut rows = HashMap::new();
        let mut coefficients = Vec::new();
        let mut folds = 0;
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = |what: String| format!("line {}: {what}", at + 1);
            let mut cells = line.split('\t');
            let first = cells.next().unwrap_or("");
            let numbers = |cells: std::str::Split<'_, char>| -> Result<Vec<f64>, String> {
                let number = |cell: &str| match cell.trim().parse::<f64>() {
                    Ok(number) if number.is_finite() => Ok(number),
                    _ => Err(wrong(format!("`{cell}` is no number"))),
                };
                cells.map(number).collect()
            };
            match first.strip_prefix('#').map(str::trim) {
                Some("intercepts") => intercepts = Some(numbers(cells)?),
                Some("a,b") => {
                    let pair = |cell: &str| {
                        let (a, b) = cell.split_once(',')?;
                        Some((a.trim().parse::<f64>().ok()?, b.trim().parse::<f64>().ok()?))
                    };
                    let pair = |cell: &str| pair(cell).ok_or_else(|| wrong(format!("`{cell}` is no pair `a,b`")));
                    platt = Some(cells.map(pair).collect::<Result<Vec<_>, _>>()?);
                }
                // A token may begin with `#` too, but only below the header.
                Some(_) if !header => {}
                _ if !header => {
                    if first != "token" {
                        return Err(wrong(format!(
                            "`{first}` stands where the header `token` and the folds is expected"
                        )));
                    }
                    header = true;
                    folds = cells.count();
                }
                _ => {
                    let numbers = numbers(cells)?;
                    if numbers.len() != folds {
                        return Err(wrong(format!("{} coefficients, and the header has {folds} folds", numbers.len())));
                    }
                    if rows.insert(first.to_owned(), rows.len()).is_some() {
                        return Err(wrong(format!("the token `{first}` stands twice")));
                    }
                    coefficients.extend(numbers);
                }
            }
        }
        let intercepts = intercepts.ok_or("it has no line `# intercepts`")?;
        let platt = platt.unwrap_or_else(|| vec![(-1.0, 0.0); folds]);
        if rows.is_empty() || folds == 0 {
            return Err("it has no token with coefficients".to_owned());
        }
        if intercepts.len() != folds || platt.len() != folds {
            let (intercepts, pairs) = (intercepts.len(), platt.len());
            return Err(format!("{folds} folds, but {intercepts} intercepts and {pairs} pairs `a,b`"));
        }
        Ok(LinearModel { intercepts, platt, rows, coefficients })
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn folds(&self) -> usize {
        self.intercepts.len()
    }

    pub(super) fn judge(&self, text: &str) -> Judged {
        let mut counts: Vec<(String, f64)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut known = 0;
        for token in tokens(text).into_iter().filter(|token| self.rows.contains_key(token)) {
            known += 1;
            match places.get(&token) {
                Some(&at) => counts[at].1 += 1.0,
                None => {
                    places.insert(token.clone(), counts.len());
                    counts.push((token, 1.0));
                }
            }
        }
        // In the model's order, as scikit-learn adds up: the same words in another order have the same score.
        counts.sort_by_key(|(token, _)| self.rows[token]);
        let folds = self.folds();
        let mut decisions = self.intercepts.clone();
        let mut weights = Vec::new();
        for (token, count) in &counts {
            let row = self.rows[token] * folds;
            let coefficients = &self.coefficients[row..row + folds];
            decisions.iter_mut().zip(coefficients).for_each(|(decision, coefficient)| *decision += count * coefficient);
            let weight = coefficients.iter().zip(&self.platt).map(|(coefficient, (a, _))| -a * coefficient * count);
            weights.push((weight.sum::<f64>() / folds as f64, token));
        }
        let platt = decisions.iter().zip(&self.platt).map(|(decision, (a, b))| 1.0 / (1.0 + (a * decision + b).exp()));
        let probability = platt.sum::<f64>() / folds as f64;
        weights.retain(|(weight, _)| *weight > 0.0);
        weights.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        let reasons = weights.into_iter().take(REASONS).map(|(_, token)| token.clone()).collect();
        Judged { probability, known, reasons }
    }
}

/// scikit-learn's `(?u)\b\w\w+\b` on the text in lower case.
pub(super) fn tokens(text: &str) -> Vec<String> {
    let word = |c: char| c == '_' || (c.is_alphanumeric() && !is_combining_mark(c));
    let lower = text.to_lowercase();
    let runs = lower.split(|c: char| !word(c));
    runs.filter(|run| run.chars().nth(1).is_some()).map(str::to_owned).collect()
}

//! The table as CSV, Markdown and LaTeX. Numbers are in percent, with one decimal in the tables that people read.

use palinode_engine::stage::StageError;

use super::{Cell, Params, Row, Table};
use crate::{evaluate_groups::row::Estimate, figure::label};

const CSV: [&str; 27] = [
    "result",
    "kept",
    "rank",
    "group",
    "train_minority",
    "train_majority",
    "runs",
    "hbg",
    "hbg_mean_of_runs",
    "hbg_sd_of_runs",
    "signed_gap",
    "signed_gap_low",
    "signed_gap_high",
    "signed_gap_p",
    "ap",
    "ap_mean_of_runs",
    "ap_sd_of_runs",
    "ap_change",
    "ap_change_low",
    "ap_change_high",
    "ap_change_p",
    "undefined",
    "paper",
    "paper_hbg",
    "paper_ap",
    "column",
    "confidence",
];

/// In percent, all decimals that matter.
fn exact(share: Option<f64>) -> String {
    share.map_or(String::new(), |share| format!("{:.4}", share * 100.0 + 0.0))
}

fn points(share: f64) -> String {
    format!("{:.1}", share * 100.0 + 0.0)
}

/// A size: over several runs the mean of theirs, as the paper's single runs would come out, with its spread.
fn size(estimate: &Estimate, plus_minus: &str) -> String {
    match (estimate.mean.or(estimate.value), estimate.sd) {
        (Some(value), Some(sd)) => format!("{} {plus_minus} {}", points(value), points(sd)),
        (Some(value), None) => points(value),
        (None, _) => "–".to_owned(),
    }
}

/// What it is the size of, with its interval.
fn signed(estimate: &Estimate, minus: &str, to: &str) -> String {
    let number = |share: f64| {
        let text = points(share.abs());
        if share < 0.0 && text != "0.0" { format!("{minus}{text}") } else { format!("+{text}") }
    };
    let Some(value) = estimate.value else { return String::new() };
    let interval = estimate.low.zip(estimate.high);
    let interval = interval.map_or(String::new(), |(low, high)| format!(" [{}{to}{}]", number(low), number(high)));
    format!("{}{interval}", number(value))
}

fn count(train: Option<f64>) -> String {
    train.map_or("?".to_owned(), |count| format!("{count:.0}"))
}

impl Cell {
    fn undefined(&self) -> Option<&String> {
        let all = [self.hbg.as_ref(), Some(&self.ap)];
        all.into_iter().flatten().find_map(|estimate| estimate.undefined.as_ref())
    }
}

impl Table {
    pub(super) fn csv(&self, params: &Params) -> Result<Vec<u8>, StageError> {
        let failed = |error: csv::Error| StageError::failed(error.to_string());
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(CSV).map_err(failed)?;
        for row in &self.rows {
            for (column, cell) in row.cells.iter().enumerate() {
                let Some(cell) = cell else { continue };
                let of = |estimate: Option<&Estimate>, number: fn(&Estimate) -> Option<f64>| {
                    exact(estimate.and_then(number))
                };
                let p = |estimate: Option<&Estimate>| {
                    estimate.and_then(|estimate| estimate.p).map_or(String::new(), |p| format!("{p:.4}"))
                };
                let (hbg, gap, ap, change) =
                    (cell.hbg.as_ref(), cell.signed.as_ref(), Some(&cell.ap), cell.change.as_ref());
                let printed = |number: Option<f64>| number.map_or(String::new(), |number| number.to_string());
                let paper = cell.paper.as_ref();
                let record = [
                    cell.mark.clone(),
                    label(&row.share),
                    label(&row.rank),
                    cell.group.clone(),
                    count(cell.train[0]),
                    count(cell.train[1]),
                    cell.runs.to_string(),
                    of(hbg, |hbg| hbg.value),
                    of(hbg, |hbg| hbg.mean),
                    of(hbg, |hbg| hbg.sd),
                    of(gap, |gap| gap.value),
                    of(gap, |gap| gap.low),
                    of(gap, |gap| gap.high),
                    p(gap),
                    of(ap, |ap| ap.value),
                    of(ap, |ap| ap.mean),
                    of(ap, |ap| ap.sd),
                    of(change, |change| change.value),
                    of(change, |change| change.low),
                    of(change, |change| change.high),
                    p(change),
                    cell.undefined().cloned().unwrap_or_default(),
                    paper.map_or(String::new(), |paper| paper.0.clone()),
                    printed(paper.and_then(|paper| paper.1)),
                    printed(paper.map(|paper| paper.2)),
                    self.heading(params, column),
                    self.confidence.to_string(),
                ];
                writer.write_record(&record).map_err(failed)?;
            }
        }
        writer.into_inner().map_err(|error| StageError::failed(error.to_string()))
    }

    /// Whether a column has numbers of the paper beside it.
    fn printed(&self, column: usize) -> bool {
        self.rows
            .iter()
            .any(|row| row.cells.get(column).is_some_and(|cell| cell.as_ref().is_some_and(|cell| cell.paper.is_some())))
    }

    /// What a cell says: HBG, signed gap, AP, its change, and the paper's two numbers if they are asked for.
    fn texts(cell: Option<&Cell>, printed: bool, [plus_minus, minus, to]: [&str; 3]) -> Vec<String> {
        let mut texts = vec![String::new(); if printed { 6 } else { 4 }];
        let Some(cell) = cell else { return texts };
        texts[0] = cell.hbg.as_ref().map_or("–".to_owned(), |hbg| size(hbg, plus_minus));
        texts[1] = cell.signed.as_ref().map_or(String::new(), |gap| signed(gap, minus, to));
        texts[2] = size(&cell.ap, plus_minus);
        texts[3] = cell.change.as_ref().map_or(String::new(), |change| signed(change, minus, to));
        if let (true, Some((_, hbg, ap))) = (printed, &cell.paper) {
            texts[4] = hbg.map_or("–".to_owned(), |hbg| format!("{hbg:.1}"));
            texts[5] = format!("{ap:.1}");
        }
        texts
    }

    /// The share that was kept and what came of it, in each column.
    fn key(row: &Row) -> String {
        let mut counts: Vec<String> = Vec::new();
        for cell in row.cells.iter().flatten() {
            let [minority, majority] = cell.train;
            let text = format!("{} : {}", count(minority), count(majority));
            if !counts.contains(&text) {
                counts.push(text);
            }
        }
        match row.share.as_f64() {
            Some(share) => format!("{}% ({})", share * 100.0, counts.join(", ")),
            None => label(&row.share),
        }
    }

    fn about(&self) -> Vec<String> {
        let level = self.confidence * 100.0;
        let mut about = vec![
            "Percent. Kept: the share of the minority that training kept, with the training examples of minority and \
             majority. HBG: how far the minority's accuracy is from that of full finetuning with the same seed. AP: highest \
             minus lowest accuracy of a group."
                .to_owned(),
            format!(
                "HBG and AP are sizes, point estimates without interval; the signed gap behind HBG, and the change of AP \
                 against full finetuning, have {level:.0}% bootstrap intervals, paired by test item{}.",
                if self.pooled.is_empty() { "" } else { " and run" }
            ),
        ];
        if !self.pooled.is_empty() {
            let runs = self.rows.iter().flat_map(|row| row.cells.iter().flatten()).map(|cell| cell.runs);
            let (least, most) = runs.fold((usize::MAX, 0), |(low, high), runs| (low.min(runs), high.max(runs)));
            let runs = if least == most { most.to_string() } else { format!("{least} to {most}") };
            about.push(format!(
                "HBG and AP: mean and standard deviation of {runs} runs over {}.",
                self.pooled.join(", ")
            ));
        }
        let mut mapped: Vec<String> = Vec::new();
        for row in &self.rows {
            for cell in row.cells.iter().flatten() {
                if let Some((name, ..)) = &cell.paper {
                    let text = format!("{name} beside what kept {}", Table::key(row));
                    if !mapped.contains(&text) {
                        mapped.push(text);
                    }
                }
            }
        }
        if !mapped.is_empty() {
            about.push(format!("The paper's numbers stand where this study put them: {}.", mapped.join("; ")));
        }
        if self.dropped > 0 {
            about.push(format!("Missing results, left out: {}.", self.dropped));
        }
        about
    }

    pub(super) fn markdown(&self, params: &Params) -> String {
        let mut text = String::new();
        if let Some(caption) = &params.caption {
            text += &format!("**{caption}**\n\n");
        }
        let escape = |text: &str| text.replace('|', "\\|").replace('\n', " ");
        let mut header = vec!["kept".to_owned(), params.rank.clone()];
        for column in 0..self.columns.len() {
            let of = self.heading(params, column);
            let of = if of.is_empty() { of } else { format!("{of}: ") };
            let mut names = vec!["HBG", "signed gap", "AP", "change of AP"];
            if self.printed(column) {
                names.extend(["paper's HBG", "paper's AP"]);
            }
            header.extend(names.into_iter().map(|name| format!("{of}{name}")));
        }
        let line = |cells: &[String]| {
            format!("| {} |\n", cells.iter().map(|cell| escape(cell)).collect::<Vec<_>>().join(" | "))
        };
        text += &line(&header);
        text += &line(&vec!["---".to_owned(); header.len()]);
        for (at, row) in self.rows.iter().enumerate() {
            let begins = at == 0 || self.rows[at - 1].share != row.share;
            let mut cells = vec![if begins { Table::key(row) } else { String::new() }, label(&row.rank)];
            for column in 0..self.columns.len() {
                let cell = row.cells.get(column).and_then(Option::as_ref);
                cells.extend(Table::texts(cell, self.printed(column), ["±", "−", ", "]));
            }
            text += &line(&cells);
        }
        text + "\n" + &self.about().join("\n") + "\n"
    }

    pub(super) fn latex(&self, params: &Params) -> String {
        let widths: Vec<usize> =
            (0..self.columns.len()).map(|column| if self.printed(column) { 6 } else { 4 }).collect();
        let mut text = String::from("% \\usepackage{booktabs}\n\\begin{table}\n\\centering\n");
        if let Some(caption) = &params.caption {
            text += &format!("\\caption{{{}}}\n", escape(caption));
        }
        text += &format!("\\begin{{tabular}}{{ll{}}}\n\\toprule\n", "r".repeat(widths.iter().sum()));
        let headings: Vec<String> = (0..widths.len()).map(|column| self.heading(params, column)).collect();
        if headings.iter().any(|heading| !heading.is_empty()) {
            let over = headings.iter().zip(&widths);
            let over: Vec<String> =
                over.map(|(heading, width)| format!("\\multicolumn{{{width}}}{{c}}{{{}}}", escape(heading))).collect();
            text += &format!("& & {} \\\\\n", over.join(" & "));
            let mut from = 3;
            for width in &widths {
                text += &format!("\\cmidrule(lr){{{from}-{}}}", from + width - 1);
                from += width;
            }
            text.push('\n');
        }
        let mut header = vec!["kept".to_owned(), escape(&params.rank)];
        for width in &widths {
            header.extend(["HBG", "signed gap", "AP", "change of AP"].map(str::to_owned));
            if *width == 6 {
                header.extend(["HBG (paper)", "AP (paper)"].map(str::to_owned));
            }
        }
        text += &format!("{} \\\\\n\\midrule\n", header.join(" & "));
        for (at, row) in self.rows.iter().enumerate() {
            let begins = at == 0 || self.rows[at - 1].share != row.share;
            if begins && at > 0 {
                text += "\\midrule\n";
            }
            let mut cells =
                vec![if begins { escape(&Table::key(row)) } else { String::new() }, escape(&label(&row.rank))];
            for (column, width) in widths.iter().enumerate() {
                let cell = row.cells.get(column).and_then(Option::as_ref);
                let texts = Table::texts(cell, *width == 6, ["$\\pm$", "$-$", ", "]);
                cells.extend(texts.into_iter().map(|text| text.replace('–', "--")));
            }
            text += &format!("{} \\\\\n", cells.join(" & "));
        }
        text += "\\bottomrule\n\\end{tabular}\n";
        for line in self.about() {
            text += &format!("% {line}\n");
        }
        text + "\\end{table}\n"
    }
}

/// Text as LaTeX takes it.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                escaped.push('\\');
                escaped.push(c);
            }
            '~' => escaped += "\\textasciitilde{}",
            '^' => escaped += "\\textasciicircum{}",
            '\\' => escaped += "\\textbackslash{}",
            '–' => escaped += "--",
            '\n' => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

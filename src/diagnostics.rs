//! Problems and lints, drawn: excerpt, place, what was expected, a hint.

use std::ops::Range;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, Report, Severity, miette};
use palinode_engine::{
    lint::{Checked, Finding},
    problem::{Problem, Problems, SourceFile},
};

/// All problems of a file as text for stderr, the count last.
pub(crate) fn render(problems: &Problems) -> String {
    let drawn = problems.problems.iter().map(|problem| Drawn::problem(problems, problem).render());
    let mut text: String = drawn.collect();
    let count = problems.problems.len();
    let plural = if count == 1 { "" } else { "s" };
    text.push_str(&format!("error: {count} problem{plural} in {}; nothing was run\n", problems.file.display()));
    text
}

/// One of them, ready to be drawn.
pub(crate) struct Drawn<'a> {
    pub(crate) message: String,
    severity: Severity,
    label: &'static str,
    hint: Option<String>,
    span: Option<Range<usize>>,
    file: Option<&'a SourceFile>,
}

impl<'a> Drawn<'a> {
    pub(crate) fn problem(problems: &'a Problems, problem: &Problem) -> Self {
        let file = problems.file_of(problem);
        // Without an excerpt, the file must be named.
        let message = match (&problem.span, &problem.option, file) {
            (None, None, Some(file)) => format!("{}: {}", file.path.display(), problem.message()),
            _ => problem.message(),
        };
        let (label, hint, span) = (problem.label(), problem.hint(), problem.span.clone());
        Self { message, severity: Severity::Error, label, hint, span, file }
    }

    pub(crate) fn finding(checked: &'a Checked, finding: &Finding) -> Self {
        let (label, hint, span) = (finding.lint.label(), Some(finding.lint.hint()), finding.span.clone());
        let message = format!("{} ({})", finding.lint, finding.lint.name());
        Self { message, severity: Severity::Warning, label, hint, span, file: checked.files.get(finding.file) }
    }

    /// As text for stderr.
    pub(crate) fn render(&self) -> String {
        let theme = if anstream::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::unicode_nocolor()
        };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(100).with_links(false);
        let mut text = String::new();
        // Writing to a string can't fail; a span that doesn't fit the source would.
        if handler.render_report(&mut text, self.report().as_ref()).is_err() {
            text.push_str(&self.message);
        }
        text.push('\n');
        text
    }

    fn report(&self) -> Report {
        let labels: Vec<_> = self.span.clone().map(|span| LabeledSpan::at(span, self.label)).into_iter().collect();
        let (severity, message) = (self.severity, &self.message);
        let report = match &self.hint {
            Some(hint) => miette!(severity = severity, labels = labels, help = hint.clone(), "{message}"),
            None => miette!(severity = severity, labels = labels, "{message}"),
        };
        match (&self.span, self.file) {
            (Some(_), Some(file)) => {
                report.with_source_code(NamedSource::new(file.path.to_string_lossy(), file.text.clone()))
            }
            _ => report,
        }
    }
}

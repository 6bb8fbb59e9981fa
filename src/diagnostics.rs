//! Problems of a file, drawn: excerpt, place, what was expected, a hint.

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, Report, miette};
use palinode_engine::problem::{Problem, Problems};

/// All problems of a file as text for stderr, the count last.
pub(crate) fn render(problems: &Problems) -> String {
    let theme = if anstream::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        GraphicalTheme::unicode()
    } else {
        GraphicalTheme::unicode_nocolor()
    };
    let handler = GraphicalReportHandler::new_themed(theme).with_width(100).with_links(false);
    let mut text = String::new();
    for problem in &problems.problems {
        // Writing to a string can't fail; a span that doesn't fit the source would.
        if handler.render_report(&mut text, report(problems, problem).as_ref()).is_err() {
            text.push_str(&problem.message());
        }
        text.push('\n');
    }
    let count = problems.problems.len();
    let plural = if count == 1 { "" } else { "s" };
    text.push_str(&format!("error: {count} problem{plural} in {}; nothing was run\n", problems.file.display()));
    text
}

fn report(problems: &Problems, problem: &Problem) -> Report {
    let labels = problem.span.clone().map(|span| LabeledSpan::at(span, problem.label()));
    // Without an excerpt, the file must be named.
    let message = match (&problem.span, &problem.option, problems.file_of(problem)) {
        (None, None, Some(file)) => format!("{}: {}", file.path.display(), problem.message()),
        _ => problem.message(),
    };
    let report = match problem.hint() {
        Some(hint) => miette!(labels = labels.into_iter().collect::<Vec<_>>(), help = hint, "{message}"),
        None => miette!(labels = labels.into_iter().collect::<Vec<_>>(), "{message}"),
    };
    match (&problem.span, problems.file_of(problem)) {
        (Some(_), Some(file)) => {
            report.with_source_code(NamedSource::new(file.path.to_string_lossy(), file.text.clone()))
        }
        _ => report,
    }
}

//! Rows that can't be used: an error, or counted and told.

use palinode_engine::{context::Context, stage::StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most rows that a message names.
const TOLD: usize = 5;

/// What to do about rows that can't be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BadRows {
    /// The stage fails and names them.
    #[default]
    Error,
    /// They are left out, counted, and warned of.
    Skip,
}

/// Rows that can't be used, and why.
#[derive(Default)]
pub(crate) struct Rejects {
    rows: Vec<(u64, String)>,
}

impl Rejects {
    /// Adds the row at a line; 0 for one that has none.
    pub(crate) fn add(&mut self, line: u64, reason: impl Into<String>) {
        self.rows.push((line, reason.into()));
    }

    /// Fails, or tells the count, as `bad_rows` asks; `what` is what the rows are of.
    pub(crate) fn settle(self, ctx: &Context<'_>, what: &str, bad_rows: BadRows) -> Result<(), StageError> {
        self.settle_as(ctx, what, bad_rows, "bad_rows", "skipped_rows")
    }

    /// The same for rows that another param is about, and another count.
    pub(crate) fn settle_as(
        self,
        ctx: &Context<'_>,
        what: &str,
        bad_rows: BadRows,
        param: &str,
        count_name: &str,
    ) -> Result<(), StageError> {
        let count = self.rows.len();
        if bad_rows == BadRows::Skip {
            ctx.summary(count_name, count);
        }
        if count == 0 {
            return Ok(());
        }
        let told = |(line, reason): &(u64, String)| match line {
            0 => reason.clone(),
            line => format!("line {line}: {reason}"),
        };
        let mut told: Vec<_> = self.rows.iter().take(TOLD).map(told).collect();
        if count > TOLD {
            told.push(format!("and {} more", count - TOLD));
        }
        let rows = if count == 1 { "1 row".to_owned() } else { format!("{count} rows") };
        let told = format!("{rows} of `{what}` can't be used: {}", told.join("; "));
        match bad_rows {
            BadRows::Error => Err(StageError::failed(format!("{told} (hint: mend them, or say `{param}: skip`)"))),
            BadRows::Skip => {
                ctx.warn(format!("{told}; left out"));
                Ok(())
            }
        }
    }
}

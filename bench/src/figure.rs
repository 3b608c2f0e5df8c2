//! A figure: what was measured, the reference beside it, the goal, and how both are printed. Measures nothing.

use serde::Serialize;

/// What a figure has to reach. `ratio` is always value divided by reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// The ratio is at least this: for rates.
    RatioAtLeast(f64),
    /// The ratio is at most this: for times.
    RatioAtMost(f64),
    /// The value is at least this, whatever the reference.
    AtLeast(f64),
    /// The value is at most this, whatever the reference.
    AtMost(f64),
}

/// The same load on something else, in the same run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reference {
    /// What it is: `ext4`, `bare FUSE loop`, ...
    pub name: &'static str,
    /// Its value, in the unit of the figure.
    pub value: f64,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// The median of the rounds.
    pub value: f64,
    /// Unit of value and reference.
    pub unit: &'static str,
    /// What stood beside it.
    pub reference: Option<Reference>,
    /// All of them count.
    pub goals: Vec<Goal>,
}

impl Figure {
    /// Value divided by the reference's value.
    pub fn ratio(&self) -> Option<f64> {
        self.reference.as_ref().map(|reference| self.value / reference.value)
    }

    /// Whether every goal is reached. A goal for a ratio without a reference is not.
    pub fn reached(&self) -> bool {
        self.goals.iter().all(|goal| match *goal {
            Goal::RatioAtLeast(least) => self.ratio().is_some_and(|ratio| ratio >= least),
            Goal::RatioAtMost(most) => self.ratio().is_some_and(|ratio| ratio <= most),
            Goal::AtLeast(least) => self.value >= least,
            Goal::AtMost(most) => self.value <= most,
        })
    }

    /// `BENCH name value unit | reference value | ratio | goal | ok or short`
    pub fn line(&self) -> String {
        let reference = self
            .reference
            .as_ref()
            .map_or_else(|| "-".into(), |r| format!("{} {}", r.name, number(r.value)));
        let ratio = self
            .ratio()
            .map_or_else(|| "-".into(), |ratio| format!("{}x", number(ratio)));
        format!(
            "BENCH {} {} {} | {reference} | {ratio} | {} | {}",
            self.name,
            number(self.value),
            self.unit,
            self.goals_text(),
            self.verdict()
        )
    }

    /// The figure for a machine.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "reference": self.reference,
            "ratio": self.ratio(),
            "goal": self.goals_text(),
            "verdict": self.verdict(),
        })
    }

    fn verdict(&self) -> &'static str {
        if self.reached() { "ok" } else { "short" }
    }

    fn goals_text(&self) -> String {
        let texts: Vec<_> = self
            .goals
            .iter()
            .map(|goal| match goal {
                Goal::RatioAtLeast(least) => format!(">= {least}x"),
                Goal::RatioAtMost(most) => format!("<= {most}x"),
                Goal::AtLeast(least) => format!(">= {least} {}", self.unit),
                Goal::AtMost(most) => format!("<= {most} {}", self.unit),
            })
            .collect();
        if texts.is_empty() {
            "no goal".into()
        } else {
            texts.join(" and ")
        }
    }
}

/// The lines of those that miss a goal below a heading; nothing if none does.
pub fn missed(figures: &[Figure]) -> String {
    let missed: Vec<String> = figures
        .iter()
        .filter(|figure| !figure.reached())
        .map(Figure::line)
        .collect();
    match missed.len() {
        0 => String::new(),
        count => format!(
            "{count} of {} figures miss a goal:\n  {}\n",
            figures.len(),
            missed.join("\n  ")
        ),
    }
}

/// The value in the middle. Of an even number of values the lower one of the two.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values
        .get(values.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(f64::NAN)
}

fn number(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 1000.0 => 0,
        middle if middle >= 100.0 => 1,
        small if small >= 0.1 => 2,
        _ => 4,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(value: f64, goals: Vec<Goal>) -> Figure {
        Figure {
            name: "warm-read".into(),
            value,
            unit: "GiB/s",
            reference: Some(Reference {
                name: "ext4",
                value: 10.0,
            }),
            goals,
        }
    }

    #[test]
    fn a_figure_is_one_line_with_its_verdict() {
        let reached = figure(9.6, vec![Goal::RatioAtLeast(0.95), Goal::AtLeast(2.0)]);
        assert_eq!(
            reached.line(),
            "BENCH warm-read 9.60 GiB/s | ext4 10.00 | 0.96x | >= 0.95x and >= 2 GiB/s | ok"
        );
        assert_eq!(reached.json()["verdict"], "ok");
    }

    #[test]
    fn one_missed_goal_makes_it_short() {
        for (value, goal, reached) in [
            (9.4, Goal::RatioAtLeast(0.95), false),
            (11.0, Goal::RatioAtMost(1.1), true),
            (11.2, Goal::RatioAtMost(1.1), false),
            (60.0, Goal::AtMost(60.0), true),
            (61.0, Goal::AtMost(60.0), false),
        ] {
            assert_eq!(
                figure(value, vec![Goal::AtLeast(0.0), goal]).reached(),
                reached,
                "{value} {goal:?}"
            );
        }
    }

    #[test]
    fn a_figure_that_could_not_be_measured_is_short() {
        assert!(!figure(f64::NAN, vec![Goal::RatioAtLeast(0.95)]).reached());
    }

    #[test]
    fn those_that_miss_a_goal_are_told_at_the_end() {
        let reached = figure(9.6, vec![Goal::RatioAtLeast(0.95)]);
        let short = figure(9.0, vec![Goal::RatioAtLeast(0.95)]);
        assert_eq!(missed(std::slice::from_ref(&reached)), "");
        let said = missed(&[reached, short.clone(), figure(1.0, vec![])]);
        assert_eq!(said, format!("1 of 3 figures miss a goal:\n  {}\n", short.line()));
    }

    #[test]
    fn the_median_is_the_middle_value() {
        for (values, expected) in [(vec![3.0], 3.0), (vec![9.0, 1.0, 5.0], 5.0), (vec![4.0, 2.0], 2.0)] {
            assert_eq!(median(values), expected);
        }
    }
}

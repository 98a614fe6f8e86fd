//! What a projection's thread shows to others: which code answers, what is being built, and what is in the way.

use super::builder::EventAt;
use crate::model::Position;
use crate::plugin::Plugin;
use std::sync::Arc;

/// The visible state of a projection. It is cheap to clone and to compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BoardView {
    /// The code that answers queries.
    pub(super) answers: Option<Code>,
    /// Why the code that answers has stopped folding events.
    pub(super) stopped: Option<Arc<str>>,
    /// The code whose read model is being built.
    pub(super) building: Option<Building>,
    /// The newest code, if it can't take over, and why.
    pub(super) refused: Option<(Code, Arc<str>)>,
    /// Why the last read model was set aside since the host started.
    pub(super) set_aside: Option<Arc<str>>,
    /// The events at which code has stopped.
    pub(super) stopped_at: Vec<EventAt>,
}

/// The code of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Code {
    plugin: Arc<str>,
    digest: Arc<str>,
}

/// A read model that is being built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Building {
    pub(super) code: Code,
    pub(super) reached: Position,
    /// What is in its way.
    pub(super) trouble: Option<Arc<str>>,
}

/// Whether new code has taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// The code answers queries.
    Answers,
    /// Its read model has not caught up yet.
    Building {
        /// The position of the read model.
        reached: Position,
    },
    /// The code can't take over, or has stopped.
    Failed(String),
}

impl Code {
    pub(super) fn of(plugin: &Plugin) -> Self {
        Self { plugin: plugin.label().clone(), digest: plugin.digest.as_str().into() }
    }

    /// Returns name and version.
    pub(super) fn label(&self) -> &str {
        &self.plugin
    }

    pub(super) fn digest(&self) -> &str {
        &self.digest
    }
}

impl BoardView {
    /// Returns whether the code of this digest has taken over.
    pub(super) fn takeover(&self, digest: &str) -> Takeover {
        if let Some((_, reason)) = self.refused.as_ref().filter(|(code, _)| code.digest() == digest) {
            return Takeover::Failed(match (&self.answers, &self.stopped) {
                (Some(_), None) => format!("{reason}; the previous code keeps answering"),
                (Some(_), Some(stopped)) => {
                    format!("{reason}; the previous code keeps answering, but has stopped too: {stopped}")
                }
                (None, _) => reason.to_string(),
            });
        }
        if self.answers.as_ref().is_some_and(|code| code.digest() == digest) {
            return self.stopped.as_ref().map_or(Takeover::Answers, |reason| Takeover::Failed(reason.to_string()));
        }
        let building = self.building.as_ref().filter(|building| building.code.digest() == digest);
        Takeover::Building { reached: building.map_or(Position(0), |building| building.reached) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(digest: &str) -> Code {
        Code { plugin: "sales 1".into(), digest: digest.into() }
    }

    #[test]
    fn what_became_of_new_code_is_told_from_what_there_is_to_see() {
        let mut view = BoardView { answers: Some(code("old")), ..BoardView::default() };
        assert_eq!(view.takeover("new"), Takeover::Building { reached: Position(0) }, "it was not looked at yet");
        view.building = Some(Building { code: code("new"), reached: Position(7), trouble: None });
        assert_eq!(view.takeover("new"), Takeover::Building { reached: Position(7) });
        assert_eq!(view.takeover("old"), Takeover::Answers);
        (view.building, view.refused) = (None, Some((code("new"), "no".into())));
        assert_eq!(view.takeover("new"), Takeover::Failed("no; the previous code keeps answering".into()));
        view.stopped = Some("never".into());
        let both = "no; the previous code keeps answering, but has stopped too: never";
        assert_eq!(view.takeover("new"), Takeover::Failed(both.into()));
        assert_eq!(view.takeover("old"), Takeover::Failed("never".into()), "it answers, and takes nothing more");
    }
}

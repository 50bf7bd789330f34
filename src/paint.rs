//! Colours for a terminal, if wanted.
//!
//! Text goes in padded already: what colours add has no width. Never decides whether they are wanted.

#[derive(Debug, Clone, Copy)]
pub struct Paint(pub bool);

impl Paint {
    pub fn title(self, text: &str) -> String {
        self.with("1", text)
    }

    pub fn changed(self, text: &str) -> String {
        self.with("33", text)
    }

    pub fn pushed(self, text: &str) -> String {
        self.with("32", text)
    }

    pub fn popped(self, text: &str) -> String {
        self.with("31", text)
    }

    pub fn faint(self, text: &str) -> String {
        self.with("2", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

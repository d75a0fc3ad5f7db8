//! Writes HTML. What comes from outside goes through [`Html::text`] or an attribute's value, both of which escape; tags and names of
//! attributes are constants.

/// A page in the making.
#[derive(Debug, Default)]
pub(crate) struct Html(String);

/// The attributes of a tag.
pub(crate) type Attributes<'a> = &'a [(&'static str, &'a str)];

impl Html {
    /// Writes a constant as it is.
    pub(crate) fn raw(&mut self, constant: &'static str) {
        self.0.push_str(constant);
    }

    /// Begins an element.
    pub(crate) fn open(&mut self, tag: &'static str, attributes: Attributes<'_>) {
        self.0.push('<');
        self.0.push_str(tag);
        for (name, value) in attributes {
            self.0.push(' ');
            self.0.push_str(name);
            self.0.push_str("=\"");
            escape(value, &mut self.0);
            self.0.push('"');
        }
        self.0.push('>');
    }

    /// Ends an element.
    pub(crate) fn close(&mut self, tag: &'static str) {
        self.0.push_str("</");
        self.0.push_str(tag);
        self.0.push('>');
    }

    /// Writes text.
    pub(crate) fn text(&mut self, text: &str) {
        escape(text, &mut self.0);
    }

    /// Writes an element with a text in it.
    pub(crate) fn element(&mut self, tag: &'static str, attributes: Attributes<'_>, text: &str) {
        self.open(tag, attributes);
        self.text(text);
        self.close(tag);
    }

    /// Writes a name from outside, which may run from right to left without turning what stands around it.
    pub(crate) fn name(&mut self, name: &str) {
        self.element("bdi", &[], name);
    }

    /// Writes a number for people, and its exact value for programs.
    pub(crate) fn number(&mut self, key: &str, value: f64, shown: &str) {
        let exact = format!("{value}");
        let attributes = [("value", exact.as_str()), ("data-key", key)];
        self.element("data", if key.is_empty() { &attributes[..1] } else { &attributes }, shown);
    }

    /// Returns the page.
    pub(crate) fn finish(self) -> String {
        self.0
    }
}

/// Writes a text so that it means itself in an element and in a quoted attribute. Control characters, of which HTML forbids most, and
/// those that turn the direction of what follows are shown as unknown ones.
fn escape(text: &str, to: &mut String) {
    for c in text.chars() {
        match c {
            '&' => to.push_str("&amp;"),
            '<' => to.push_str("&lt;"),
            '>' => to.push_str("&gt;"),
            '"' => to.push_str("&quot;"),
            '\'' => to.push_str("&#39;"),
            '\n' | '\t' => to.push(' '),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => to.push('\u{fffd}'),
            c if c.is_control() => to.push('\u{fffd}'),
            c => to.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_outside_means_itself() {
        let mut html = Html::default();
        let hostile = "</td><script>alert('x')</script>\" onload=\"&amp;\0\u{202e}";
        html.element("td", &[("title", hostile)], hostile);
        let escaped =
            "&lt;/td&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot; onload=&quot;&amp;amp;\u{fffd}\u{fffd}";
        assert_eq!(html.finish(), format!("<td title=\"{escaped}\">{escaped}</td>"));
    }
}

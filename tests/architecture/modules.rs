//! The files of a crate and their imports of each other, read from `mod`, `use` and `crate::`, `super::` paths.
//!
//! This is not a Rust parser: comments, strings and test modules are removed, and the rest is read as words. A name
//! is followed through re-exports to the file that defines it, so a `pub use` in a `mod.rs` does not connect two
//! files.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

type Segments = Vec<String>;

/// The most modules that a name may be re-exported through.
const MAX_REEXPORTS: usize = 12;

struct Module {
    file: PathBuf,
    /// The index of the parent. The root is its own parent.
    parent: usize,
    children: BTreeMap<String, usize>,
    /// The names that `use` imports, and their paths.
    imports: BTreeMap<String, Segments>,
    /// The modules that `use` imports with `*`.
    globs: Vec<Segments>,
    /// Every path that is used, except re-exports.
    used: Vec<Segments>,
    /// The names that the file defines.
    items: BTreeSet<String>,
}

/// The modules of one crate; the first is its root.
pub struct Crate(Vec<Module>);

impl Crate {
    /// Reads the crate whose `lib.rs` or `main.rs` is in `source`.
    pub fn read(source: &Path) -> Self {
        let root = ["lib.rs", "main.rs"].map(|name| source.join(name)).into_iter().find(|path| path.exists());
        let mut modules = Self(Vec::new());
        modules.add(&root.unwrap_or_else(|| panic!("{} has no lib.rs", source.display())), 0);
        modules
    }

    /// Adds the file's module and those below it. Returns its index.
    fn add(&mut self, file: &Path, parent: usize) -> usize {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut reader = Reader::new(&text);
        reader.read();
        let index = self.0.len();
        let Reader { imports, globs, used, items, .. } = reader;
        let children = BTreeMap::new();
        self.0.push(Module { file: file.to_owned(), parent, children, imports, globs, used, items });
        let (stem, folder) = (file.file_stem().expect("a name"), file.parent().expect("a folder"));
        let is_folder = ["lib", "main", "mod"].iter().any(|name| stem == *name);
        let below = if is_folder { folder.to_owned() } else { folder.join(stem) };
        for name in reader.children {
            let places = [below.join(format!("{name}.rs")), below.join(&name).join("mod.rs")];
            // An inline module has no file.
            if let Some(file) = places.iter().find(|path| path.exists()) {
                let child = self.add(file, index);
                self.0[index].children.insert(name, child);
            }
        }
        index
    }

    /// Returns the shortest circle of each group of files that need each other, directly or indirectly.
    ///
    /// A file may use items of the modules above it: a module and the files below it count as one unit.
    pub fn circles(&self) -> Vec<Vec<&Path>> {
        let edges: Vec<BTreeSet<usize>> = (0..self.0.len()).map(|module| self.needed_by(module)).collect();
        let mut seen = BTreeSet::new();
        let circles = (0..self.0.len()).filter_map(|module| shortest_circle(&edges, module));
        let new = circles.filter(|circle| seen.insert(circle.iter().copied().collect::<BTreeSet<_>>()));
        let files = |circle: Vec<usize>| circle.iter().map(|module| self.0[*module].file.as_path()).collect();
        new.collect::<Vec<_>>().into_iter().map(files).collect()
    }

    fn needed_by(&self, module: usize) -> BTreeSet<usize> {
        let used = self.0[module].used.iter();
        let defined = used.filter_map(|path| self.definition(module, path, MAX_REEXPORTS));
        defined.filter(|other| !self.is_above(*other, module)).collect()
    }

    /// Returns whether `above` is `module` or contains it.
    fn is_above(&self, above: usize, module: usize) -> bool {
        above == module || module != 0 && self.is_above(above, self.0[module].parent)
    }

    /// Returns the module that defines the item of `path`, seen from `module`, or `None` for items of other crates.
    fn definition(&self, module: usize, path: &[String], reexports: usize) -> Option<usize> {
        let Some(reexports) = reexports.checked_sub(1) else { return Some(module) };
        let (mut at, mut rest) = (module, path);
        match path.first()?.as_str() {
            "crate" => (at, rest) = (0, &path[1..]),
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    (at, rest) = (self.0[at].parent, &rest[1..]);
                }
            }
            name if self.0[module].children.contains_key(name) => {}
            name => {
                let import = self.0[module].imports.get(name)?;
                let whole = [import.as_slice(), &path[1..]].concat();
                // `use serde::Deserialize` names no module of this crate; nor does `use http;`.
                return if whole == path { None } else { self.definition(module, &whole, reexports) };
            }
        }
        while let Some(segment) = rest.first() {
            let here = &self.0[at];
            if let Some(child) = here.children.get(segment) {
                (at, rest) = (*child, &rest[1..]);
                continue;
            }
            if let Some(import) = here.imports.get(segment) {
                let whole = [import.as_slice(), &rest[1..]].concat();
                return self.definition(at, &whole, reexports);
            }
            let mut of_globs = here.globs.iter().filter_map(|glob| self.definition(at, glob, reexports));
            return Some(of_globs.find(|from| self.0[*from].items.contains(segment)).unwrap_or(at));
        }
        Some(at)
    }
}

/// Returns the shortest path from `start` back to it.
fn shortest_circle(edges: &[BTreeSet<usize>], start: usize) -> Option<Vec<usize>> {
    let mut came_from = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(module) = queue.pop_front() {
        for &next in &edges[module] {
            if next == start {
                let mut circle = vec![module];
                while let Some(before) = came_from.get(circle.last()?) {
                    circle.push(*before);
                }
                circle.reverse();
                return Some(circle);
            }
            came_from.entry(next).or_insert_with(|| {
                queue.push_back(next);
                module
            });
        }
    }
    None
}

/// Reads the words of one file.
struct Reader<'a> {
    words: Vec<&'a str>,
    children: Vec<String>,
    imports: BTreeMap<String, Segments>,
    globs: Vec<Segments>,
    used: Vec<Segments>,
    items: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            words: words(text),
            children: Vec::new(),
            imports: BTreeMap::new(),
            globs: Vec::new(),
            used: Vec::new(),
            items: BTreeSet::new(),
        }
    }

    fn read(&mut self) {
        const ITEMS: [&str; 8] = ["struct", "enum", "trait", "fn", "type", "const", "static", "union"];
        let mut at = 0;
        while at < self.words.len() {
            let word = self.words[at];
            let next = self.words.get(at + 1).copied().unwrap_or_default();
            at = if self.words[at..].starts_with(&["#", "[", "cfg", "(", "test", ")", "]"]) {
                self.end_of_item(at + 7)
            } else if word == "mod" && self.words.get(at + 2) == Some(&";") {
                self.children.push(next.to_owned());
                at + 3
            } else if word == "use" {
                let end = at + self.words[at..].iter().position(|word| *word == ";").unwrap_or(1);
                let is_public = at > 0 && ["pub", ")"].contains(&self.words[at - 1]);
                let words = self.words[at + 1..end].to_vec();
                self.import(&mut words.into_iter().peekable(), &[], is_public);
                end
            } else if next == "::" && is_name(word) {
                self.path(at)
            } else {
                if ITEMS.contains(&word) {
                    self.items.insert(next.to_owned());
                }
                at + 1
            };
        }
    }

    /// Returns the position after the item that begins at `at`: after its block or its semicolon.
    fn end_of_item(&self, mut at: usize) -> usize {
        let mut depth = 0;
        while let Some(word) = self.words.get(at) {
            at += 1;
            match *word {
                "{" => depth += 1,
                "}" => {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                }
                ";" if depth == 0 => break,
                _ => {}
            }
        }
        at
    }

    /// Reads a tree of a `use`: `a::{b, c as d, e::*}`.
    fn import(&mut self, words: &mut Words<'_>, before: &[String], is_public: bool) {
        let mut path = before.to_vec();
        let mut name = None;
        while let Some(word) = words.next() {
            match word {
                "::" => {}
                "{" => {
                    while words.peek().is_some_and(|word| *word != "}") {
                        self.import(words, &path, is_public);
                    }
                    words.next();
                    // The comma after the braces belongs to the outer tree.
                    words.next_if_eq(&",");
                    return;
                }
                "," => break,
                "*" => {
                    if !is_public {
                        self.used.push(path.clone());
                    }
                    self.globs.push(path);
                    words.next_if_eq(&",");
                    return;
                }
                "as" => name = words.next().map(ToOwned::to_owned),
                "self" if !path.is_empty() => {}
                segment => path.push(segment.to_owned()),
            }
            if words.peek() == Some(&"}") {
                break;
            }
        }
        let Some(last) = path.last().cloned() else { return };
        if !is_public {
            self.used.push(path.clone());
        }
        self.imports.insert(name.unwrap_or(last), path);
    }

    /// Reads a path in the code, `crate::a::b`. Returns the position after it.
    fn path(&mut self, mut at: usize) -> usize {
        let mut path = vec![self.words[at].to_owned()];
        while self.words.get(at + 1) == Some(&"::")
            && self.words.get(at + 2).is_some_and(|word| is_name(word))
        {
            at += 2;
            path.push(self.words[at].to_owned());
        }
        self.used.push(path);
        at + 1
    }
}

type Words<'a> = std::iter::Peekable<std::vec::IntoIter<&'a str>>;

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// Splits a text into names, `::` and single characters, without comments and the contents of strings.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => string_length(rest),
            'r' if rest.starts_with("r\"") || rest.starts_with("r#") => raw_string_length(rest),
            '\'' => char_length(rest),
            c if c.is_ascii_alphanumeric() || c == '_' => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                words.push(&rest[..end]);
                end
            }
            ':' if rest.starts_with("::") => {
                words.push(&rest[..2]);
                2
            }
            c => {
                if !c.is_whitespace() {
                    words.push(&rest[..c.len_utf8()]);
                }
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    words
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// Returns the length of `r#"…"#`, or 1 for a raw name.
fn raw_string_length(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    if !text[1 + hashes..].starts_with('"') {
        return 1;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    text[2 + hashes..].find(&end).map_or(text.len(), |at| 2 + hashes + at + end.len())
}

/// Returns the length of `'x'` or `'\n'`, or 1 for a lifetime.
fn char_length(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            text[2..].char_indices().skip(1).find(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 3)
        }
        Some((_, c)) if text[1 + c.len_utf8()..].starts_with('\'') => 2 + c.len_utf8(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
            fs::write(path, text).expect("it can be written");
        }
        let modules = Crate::read(folder.path());
        let name = |path: &&Path| path.strip_prefix(folder.path()).expect("below").display().to_string();
        modules.circles().iter().map(|circle| circle.iter().map(name).collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn circles_are_found_through_every_kind_of_path() {
        let root = ("lib.rs", "mod a; mod b;");
        let b = ("b.rs", "use super::a::{self, A as Other};");
        for a in [
            "use crate::b;",
            "fn f() { crate::b::g() }",
            "use super::b::{x, y};",
            "pub fn f(_: super::b::B) {}",
        ] {
            assert_eq!(circles(&[root, ("a.rs", a), b]), ["a.rs b.rs"], "{a}");
        }
        for a in [
            "// use crate::b;",
            "const A: &str = \"crate::b::g\";",
            "#[cfg(test)] mod tests { use crate::b; }",
        ] {
            assert!(circles(&[root, ("a.rs", a), b]).is_empty(), "{a}");
        }
    }

    #[test]
    fn names_are_followed_to_where_they_are_defined() {
        let files = [
            ("lib.rs", "mod a; mod user; pub use a::One;"),
            ("a/mod.rs", "mod one; mod two; pub use one::One; pub use two::*; pub struct Own;"),
            ("a/one.rs", "use super::Own; pub struct One;"),
            ("a/two.rs", "use crate::user::User; pub struct Two;"),
            ("user.rs", "use crate::One; pub struct User;"),
        ];
        assert!(circles(&files).is_empty());
        let mut circle = files;
        circle[4].1 = "use crate::a::Two; pub struct User;";
        assert_eq!(circles(&circle), ["a/two.rs user.rs"]);
    }
}

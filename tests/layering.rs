//! Checks which module may import which. It reads the `use` lines of `src`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The layers from the top: a module imports from its own layer or a lower one. Those in one layer
/// do not know each other's insides, and no two of them import each other.
const ORDER: &str = "lib, guide, api_keys > middleware, manage > shared > observe, webhook > events > http \
                     > cache > usage, anomaly > limit, store > redact > document, key > util";

/// The lowest layer that knows of HTTP, and the only one that knows of tower.
const HTTP: &str = "http";
const TOWER: &str = "middleware";
/// These stand beside the layers and use the ports downwards; only the top names them.
const BESIDE: [&str; 2] = ["backend", "conformance"];
const PORTS: &str = "cache";

/// How many files there may be at the root of `src`.
const AT_THE_ROOT: usize = 6;

struct File {
    path: PathBuf,
    /// The module at the top of the tree that the file belongs to.
    module: String,
    text: String,
}

impl File {
    /// The modules at the top of the tree that the file names.
    fn imports(&self) -> BTreeSet<String> {
        let after = |text: &str| {
            let name = text
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .next();
            name.unwrap_or_default().to_owned()
        };
        let code = self.code();
        let mut names: BTreeSet<_> = code.split("crate::").skip(1).map(after).collect();
        if let Some(group) = code.split("use crate::{").nth(1) {
            let group = group.split('}').next().unwrap_or_default();
            names.extend(group.split(',').map(|name| after(name.trim())));
        }
        names.retain(|name| name.starts_with(|c: char| c.is_lowercase()));
        names.remove(&self.module);
        names
    }

    /// The text without comments, without its tests, and, in the file of a public module, without
    /// what is only exported there.
    fn code(&self) -> String {
        let code = self.text.split("#[cfg(test)]\nmod tests").next().unwrap();
        if self.path.ends_with("mod.rs") {
            let lines = code.lines();
            let lines = lines.filter(|line| !line.starts_with("pub use crate::"));
            return without_comments(lines);
        }
        without_comments(code.lines())
    }
}

fn without_comments<'t>(lines: impl Iterator<Item = &'t str>) -> String {
    let lines = lines.filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn files() -> Vec<File> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&source, &mut found);
    let file = |path: PathBuf| {
        let path = path.strip_prefix(&source).unwrap().to_owned();
        let module = path.iter().next().unwrap().to_str().unwrap();
        File {
            module: module.trim_end_matches(".rs").to_owned(),
            text: fs::read_to_string(source.join(&path)).unwrap(),
            path,
        }
    };
    found.into_iter().map(file).collect()
}

fn layer_of(module: &str) -> usize {
    let module = if BESIDE.contains(&module) {
        PORTS
    } else {
        module
    };
    let layer = |layer: &str| layer.split(',').any(|name| name.trim() == module);
    let found = ORDER.split('>').position(layer);
    found.unwrap_or_else(|| panic!("give the module `{module}` its layer in this test"))
}

#[test]
fn imports_point_downwards() {
    for file in files() {
        for import in file.imports() {
            let path = file.path.display();
            if BESIDE.contains(&import.as_str()) {
                assert_eq!(layer_of(&file.module), 0, "{path} names `{import}`");
                continue;
            }
            assert!(
                layer_of(&file.module) <= layer_of(&import),
                "{path} imports `{import}` from above"
            );
        }
    }
}

#[test]
fn there_are_no_import_cycles() {
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files() {
        let imported = imports.entry(file.module.clone()).or_default();
        imported.extend(file.imports());
    }
    hold_to_have_no_circle("src", imports);
}

/// Among the files of a folder, each taken together with the folder of its name.
#[test]
fn there_are_no_import_cycles_inside_a_folder() {
    let mut folders: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for file in files() {
        let mut parts = file.path.iter().map(|part| part.to_str().unwrap());
        let (Some(folder), Some(room)) = (parts.next(), parts.next()) else {
            continue;
        };
        let room = room.trim_end_matches(".rs");
        if room == "mod" {
            continue; // it declares and re-exports the others
        }
        let within = format!("crate::{folder}::");
        let code = file.code();
        let is_in_the_folder = file.path.iter().count() == 2;
        let code = if is_in_the_folder {
            code.replace("super::", &within)
        } else {
            code
        };
        let mut names: BTreeSet<String> = BTreeSet::new();
        for behind in code.split(&within).skip(1) {
            let name: String = behind
                .chars()
                .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
                .collect();
            names.insert(name);
        }
        names.retain(|name| name.starts_with(|letter: char| letter.is_lowercase()));
        names.remove(room);
        let rooms = folders.entry(folder.to_owned()).or_default();
        rooms.entry(room.to_owned()).or_default().extend(names);
    }
    for (folder, rooms) in folders {
        hold_to_have_no_circle(&folder, rooms);
    }
}

#[test]
fn there_are_few_files_at_the_root() {
    let at_the_root = files()
        .into_iter()
        .filter(|file| file.path.iter().count() == 1);
    let at_the_root: Vec<_> = at_the_root.map(|file| file.path).collect();
    assert!(at_the_root.len() <= AT_THE_ROOT, "{at_the_root:?}");
}

/// Takes away what imports nothing that is left, until nothing is left.
fn hold_to_have_no_circle(place: &str, mut imports: BTreeMap<String, BTreeSet<String>>) {
    while !imports.is_empty() {
        let left: BTreeSet<_> = imports.keys().cloned().collect();
        imports.retain(|_, names| !names.is_disjoint(&left));
        let circle: Vec<_> = imports.keys().collect();
        assert!(
            imports.len() < left.len(),
            "in {place}, these import each other: {circle:?}"
        );
    }
}

#[test]
fn only_the_edge_depends_on_http_and_tower() {
    for file in files() {
        let (layer, code, path) = (layer_of(&file.module), file.code(), file.path.display());
        let (http, tower) = (layer_of(HTTP), layer_of(TOWER));
        let code = code.replace("crate::http::", "");
        for (name, lowest) in [
            ("http::", http),
            ("http_body::", http),
            ("axum::", http),
            ("tonic::", http),
            ("tower_layer::", tower),
            ("tower_service::", tower),
        ] {
            assert!(
                layer <= lowest || !code.contains(name),
                "{path} names `{name}`"
            );
        }
    }
}

#[test]
fn middleware_and_management_do_not_import_each_other() {
    for file in files() {
        let other = match file.module.as_str() {
            "middleware" => "manage",
            "manage" => "middleware",
            _ => continue,
        };
        assert!(!file.imports().contains(other), "{}", file.path.display());
    }
}

/// Whoever sends webhooks needs nothing of requests with keys, nor of caches and limits.
#[test]
fn webhooks_know_only_events_keys_and_stores() {
    for file in files().iter().filter(|file| file.module == "webhook") {
        for import in file.imports() {
            let is_allowed = ["events", "key", "store", "util"].contains(&import.as_str());
            assert!(is_allowed, "{} imports `{import}`", file.path.display());
        }
    }
}

#[test]
fn each_feature_is_gated_in_one_place() {
    for (feature, place) in [
        ("axum", "http/framework/mod.rs"),
        ("tonic", "http/framework/mod.rs"),
        ("conformance", "lib.rs"),
    ] {
        let switch = format!("feature = \"{feature}\"");
        let places = files()
            .into_iter()
            .filter(|file| file.code().contains(&switch));
        let places: Vec<_> = places.map(|file| file.path).collect();
        assert_eq!(places, [Path::new(place)], "the switch of `{feature}`");
    }
}

//! Holds the house to its plan: what may import what. It reads the `use` lines of `src`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The layers from the top; a module imports from its own layer or a lower one.
const LAYERS: [&[&str]; 7] = [
    &["lib", "api_keys"],
    &["middleware", "manage"],
    &["keyring"],
    &[
        "caller",
        "framework",
        "observe",
        "request",
        "response",
        "source",
    ],
    &["cache", "limit", "rejection", "store"],
    &["document", "key"],
    &[
        "clock",
        "parts",
        "quota",
        "secret",
        "sync",
        "table",
        "timestamp",
        "trace",
    ],
];

/// The lowest layer that knows of HTTP.
const HTTP: usize = 3;
/// The only layer that knows of tower.
const TOWER: usize = 1;
/// These stand beside the layers and use the ports downwards; only the top names them.
const BESIDE: [&str; 2] = ["backend", "conformance"];
const PORTS: usize = 4;

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

    /// The text without comments and without its tests.
    fn code(&self) -> String {
        let code = self.text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let lines = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        lines.collect::<Vec<_>>().join("\n")
    }
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
    if BESIDE.contains(&module) {
        return PORTS;
    }
    let layer = LAYERS.iter().position(|layer| layer.contains(&module));
    layer.unwrap_or_else(|| panic!("give the module `{module}` its layer in this test"))
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
fn there_are_no_circles() {
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files() {
        imports
            .entry(file.module.clone())
            .or_default()
            .extend(file.imports());
    }
    // Take away what imports nothing that is left, until nothing is left.
    while !imports.is_empty() {
        let left: BTreeSet<_> = imports.keys().cloned().collect();
        imports.retain(|_, names| !names.is_disjoint(&left));
        let circle: Vec<_> = imports.keys().collect();
        assert!(
            imports.len() < left.len(),
            "these import each other: {circle:?}"
        );
    }
}

#[test]
fn only_the_edge_knows_of_http_and_of_tower() {
    for file in files() {
        let (layer, code, path) = (layer_of(&file.module), file.code(), file.path.display());
        for (name, lowest) in [
            ("http::", HTTP),
            ("http_body::", HTTP),
            ("axum::", HTTP),
            ("tonic::", HTTP),
            ("tower_layer::", TOWER),
            ("tower_service::", TOWER),
        ] {
            assert!(
                layer <= lowest || !code.contains(name),
                "{path} names `{name}`"
            );
        }
    }
}

#[test]
fn the_path_and_the_management_calls_do_not_know_each_other() {
    for file in files() {
        let other = match file.module.as_str() {
            "middleware" => "manage",
            "manage" => "middleware",
            _ => continue,
        };
        assert!(!file.imports().contains(other), "{}", file.path.display());
    }
}

#[test]
fn a_feature_has_its_switch_in_one_place() {
    for (feature, place) in [
        ("axum", "framework/mod.rs"),
        ("tonic", "framework/mod.rs"),
        ("conformance", "lib.rs"),
        ("serde", "lib.rs"),
    ] {
        let switch = format!("feature = \"{feature}\"");
        let places = files()
            .into_iter()
            .filter(|file| file.code().contains(&switch));
        let places: Vec<_> = places.map(|file| file.path).collect();
        assert_eq!(places, [Path::new(place)], "the switch of `{feature}`");
    }
}

//! Checks `rust-version` in `Cargo.toml`: the newest Rust that the locked dependencies and our own
//! code need, and none newer.
//!
//! cargo downloads the packages of other platforms for this, if they are not there yet.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::process::Command;

use serde_json::Value;

/// The Rust that our own code needs, with all features: 1.89, for `format_args!` kept in a variable
/// in `src/conformance`. Everything else compiles with 1.88 (let chains).
///
/// clippy's `incompatible_msrv` finds newer items of the standard library. It does not know the
/// syntax of the language: raise this by hand for newer syntax.
const OWN: Version = Version(1, 89, 0);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

impl Version {
    fn parse(text: &str) -> Self {
        let mut numbers = text.split('.').map(|number| number.parse().unwrap());
        let mut next = || numbers.next().unwrap_or(0);
        Self(next(), next(), next())
    }

    /// The name of the release as people write it: `Rust 1.89`.
    fn name(self) -> String {
        match self {
            Self(major, minor, 0) => format!("Rust {major}.{minor}"),
            Self(major, minor, patch) => format!("Rust {major}.{minor}.{patch}"),
        }
    }
}

/// The locked packages, as `cargo metadata` describes them.
struct Packages {
    ours: Value,
    /// What each package declares, by name and version (`serde v1.0.219`). Most declare something.
    declared: BTreeMap<String, Version>,
}

impl Packages {
    fn read() -> Self {
        let metadata = cargo(&[
            "metadata",
            "--format-version",
            "1",
            "--all-features",
            "--locked",
        ]);
        let metadata: Value = serde_json::from_str(&metadata).unwrap();
        let packages = metadata["packages"].as_array().unwrap();
        let is_ours = |package: &&Value| package["name"] == env!("CARGO_PKG_NAME");
        let declared = packages.iter().filter_map(|package| {
            let version = package["rust_version"].as_str()?;
            Some((package_id(package), Version::parse(version)))
        });
        Self {
            ours: packages.iter().find(is_ours).unwrap().clone(),
            declared: declared.collect(),
        }
    }

    fn rust_version(&self) -> Version {
        self.declared[&package_id(&self.ours)]
    }

    fn features(&self) -> impl Iterator<Item = &str> {
        let features = self.ours["features"].as_object().unwrap().keys();
        features.map(String::as_str)
    }

    /// The newest Rust that a dependency declares, and that dependency. Counts dependencies that
    /// are compiled on any platform, for the crate or for their build scripts.
    ///
    /// `cargo tree` and not the graph of `cargo metadata`, which has what only tests switch on.
    fn newest_of_dependencies(&self, features: &str) -> (Version, String) {
        let tree = cargo(&[
            "tree",
            "--locked",
            "--no-default-features",
            "--features",
            features,
            "--edges=normal,build",
            "--target=all",
            "--prefix=none",
            "--format={p}",
        ]);
        let ours = package_id(&self.ours);
        let dependencies = tree.lines().map(|line| {
            let mut words = line.split_whitespace();
            format!("{} {}", words.next().unwrap(), words.next().unwrap())
        });
        let dependencies = dependencies.filter(|package| *package != ours);
        dependencies
            .filter_map(|package| Some((*self.declared.get(&package)?, package)))
            .max()
            .unwrap()
    }
}

/// A package as `cargo tree` writes it.
fn package_id(package: &Value) -> String {
    let [name, version] = ["name", "version"].map(|field| package[field].as_str().unwrap());
    format!("{name} v{version}")
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cargo {} failed; if packages are missing, run `cargo fetch --locked`: {}",
        arguments[0],
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn read(file: &str) -> String {
    fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The comment above a feature in `Cargo.toml`.
fn comment_on(feature: &str, manifest: &str) -> String {
    let features = manifest.split_once("[features]\n").unwrap().1;
    let (above, _) = features.split_once(&format!("\n{feature} = ")).unwrap();
    let lines = above.lines().rev();
    let mut lines: Vec<_> = lines.take_while(|line| line.starts_with('#')).collect();
    lines.reverse();
    lines.join("\n")
}

#[test]
fn rust_version_is_what_dependencies_and_our_own_code_need() {
    let packages = Packages::read();
    let (newest, dependency) = packages.newest_of_dependencies("default");
    assert_eq!(
        packages.rust_version(),
        newest.max(OWN),
        "{dependency} needs {}, our own code {}",
        newest.name(),
        OWN.name()
    );
}

#[test]
fn a_feature_that_needs_a_newer_rust_says_so_in_its_comment() {
    let packages = Packages::read();
    let manifest = read("Cargo.toml");
    for feature in packages.features().filter(|name| *name != "default") {
        let (newest, dependency) = packages.newest_of_dependencies(feature);
        let comment = comment_on(feature, &manifest);
        if newest > packages.rust_version() {
            let name = newest.name();
            assert!(
                comment.contains(&name),
                "`{feature}` needs {name} for {dependency}: say so in its comment in Cargo.toml"
            );
        } else {
            assert!(
                !comment.contains("Rust 1."),
                "`{feature}` needs no newer Rust than the crate, and its comment names one"
            );
        }
    }
}

#[test]
fn the_readme_names_the_same_rust() {
    let name = Packages::read().rust_version().name();
    let sentence = format!("needs {name} or later");
    assert!(
        read("README.md").contains(&sentence),
        "README.md does not say `{sentence}`"
    );
}

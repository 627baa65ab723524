//! What the fuzzer has found once, and noise, through every fuzz target, on stable. Looking for more is libFuzzer's (`fuzz/Cargo.toml`).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use sidepool_fuzz::TARGETS;

/// Where the targets are.
const FUZZ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz");
/// How long the noise is that every target gets beside its corpus.
const NOISE: usize = 4096;

#[test]
fn every_corpus_file_goes_through_its_target() {
    let corpus = Path::new(FUZZ).join("corpus");
    for (name, target) in TARGETS {
        let folder = corpus.join(name);
        let mut files: Vec<_> = fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.expect("a readable folder").path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            println!("{}", file.display());
            target(&fs::read(&file).expect("a readable file"));
        }
    }
}

#[test]
fn every_target_takes_anything() {
    for (_, target) in TARGETS {
        target(&[]);
        target(&[0; NOISE]);
        target(&[0xff; NOISE]);
        for seed in 1..40_u64 {
            let mut state = seed;
            let noise: Vec<u8> = (0..NOISE)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 56) as u8
                })
                .collect();
            target(&noise);
        }
    }
}

#[test]
fn targets_corpora_and_entries_have_the_same_names() {
    let root = Path::new(FUZZ);
    let names = |folder: &str| -> BTreeSet<String> {
        fs::read_dir(root.join(folder))
            .expect("a readable folder")
            .map(|entry| Path::new(&entry.expect("an entry").file_name()).file_stem().expect("a name").to_string_lossy().into_owned())
            .collect()
    };
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("corpus"), targets);
    assert_eq!(names("fuzz_targets"), targets);
}

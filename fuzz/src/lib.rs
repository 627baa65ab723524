//! The bodies of the fuzz targets: one file each, a function from bytes to nothing that panics when something does not hold.
//!
//! `fuzz_targets/` hands them to libFuzzer; the test below replays the committed corpus through them on stable.

pub mod config_toml;
pub mod console;
pub mod handover;
pub mod hba;
pub mod pgbouncer_ini;
pub mod pool_core;
pub mod postgres_hints;
pub mod postgres_normal;
pub mod postgres_session;
pub mod postgres_startup;
pub mod redis_frame;
pub mod redis_lane;
pub mod redis_pipeline;
pub mod redis_request;
pub mod userlist;

/// A target: its name, which is that of its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("config_toml", config_toml::run),
    ("console", console::run),
    ("handover", handover::run),
    ("hba", hba::run),
    ("pgbouncer_ini", pgbouncer_ini::run),
    ("pool_core", pool_core::run),
    ("postgres_hints", postgres_hints::run),
    ("postgres_normal", postgres_normal::run),
    ("postgres_session", postgres_session::run),
    ("postgres_startup", postgres_startup::run),
    ("redis_frame", redis_frame::run),
    ("redis_lane", redis_lane::run),
    ("redis_pipeline", redis_pipeline::run),
    ("redis_request", redis_request::run),
    ("userlist", userlist::run),
];

#[cfg(test)]
mod replay {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::TARGETS;

    /// How long the noise is that every target gets beside its corpus.
    const NOISE: usize = 4096;

    #[test]
    fn every_corpus_file_goes_through_its_target() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
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
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
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
}

//! Which sidepool is under test. Built by cargo when a test first asks, so that it is never stale; a path in the environment says otherwise.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// How the binary is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// With debug assertions, so that the pool checks its invariants after every step. `SIDEPOOL_BIN` names another.
    Checked,
    /// As users run it: for memory and load. `SIDEPOOL_FAST_BIN` names another.
    Fast,
}

/// The path of the binary.
pub fn path(build: Build) -> &'static PathBuf {
    static CHECKED: OnceLock<PathBuf> = OnceLock::new();
    static FAST: OnceLock<PathBuf> = OnceLock::new();
    match build {
        Build::Checked => CHECKED.get_or_init(|| from_environment("SIDEPOOL_BIN").unwrap_or_else(|| compile("sidepool", "dev", "debug"))),
        Build::Fast => FAST.get_or_init(|| from_environment("SIDEPOOL_FAST_BIN").unwrap_or_else(|| compile("sidepool", "fast", "fast"))),
    }
}

/// Sees to it that the program that asks PAM is beside [`Build::Checked`], where sidepool looks for it; whoever names another binary has put it there.
pub fn with_pam() {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if from_environment("SIDEPOOL_BIN").is_none() {
        BUILT.get_or_init(|| compile("sidepool-pam", "dev", "debug"));
    }
}

/// The relays that do nothing but copy, which the benchmark holds poolers against. `SIDEPOOL_FLOOR_BIN` names a program that is there: built for itself,
/// its dependencies would be compiled once more.
pub fn floor() -> PathBuf {
    from_environment("SIDEPOOL_FLOOR_BIN").unwrap_or_else(|| compile("sidepool-floor", "dev", "debug").with_file_name("floor"))
}

/// A directory with `out`, which has what the image holds, as `deploy/docker/static` makes it. `SIDEPOOL_IMAGE_CONTENT` names one that is there.
pub fn image_content() -> &'static PathBuf {
    static CONTENT: OnceLock<PathBuf> = OnceLock::new();
    CONTENT.get_or_init(|| {
        from_environment("SIDEPOOL_IMAGE_CONTENT").unwrap_or_else(|| {
            let content = target().join("image");
            let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/docker/static");
            let mut command = Command::new(script);
            // Not where the binary under test is, whose place it would take.
            command.arg(content.join("out")).arg("dev").env("CARGO_TARGET_DIR", target().join("static"));
            let output = command.output().expect("bash starts");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            content
        })
    })
}

fn from_environment(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn compile(package: &str, profile: &str, directory: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", package, "--profile", profile]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().expect("cargo starts");
    assert!(output.status.success(), "{package} does not compile:\n{}", String::from_utf8_lossy(&output.stderr));
    target().join(directory).join(package)
}

/// We are TARGET/PROFILE/deps/NAME.
fn target() -> PathBuf {
    let ourselves = std::env::current_exe().expect("we know where we are");
    ourselves.ancestors().nth(3).expect("cargo's layout").to_owned()
}

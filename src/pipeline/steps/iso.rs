//! Step: the medium.

use std::fs::{self, File};
use std::path::Path;

use crate::debian::boot_tools::{BootTools, BootToolsError};
use crate::iso::esp::EspError;
use crate::iso::gpt::{self, TableError};
use crate::iso::grub::{self, Grub};
use crate::iso::plan::{IsoParts, IsoPlan, MediumContents, OUTPUT};
use crate::pipeline::step_inputs::StepInputs;
use crate::pipeline::step_runner::StepRunner;
use crate::pipeline::steps::miniroot::BootFiles;
use crate::pipeline::steps::systems::Systems;
use crate::pipeline::{OutputDirectory, Request};
use crate::sys::process::{Tool, ToolError};
use crate::templates::TemplateError;
use system::files::{FileError, OutputPath, Scratch};

/// Why there is no medium.
#[derive(Debug, thiserror::Error)]
pub enum MakeIsoError {
    /// The ESP can't be made.
    #[error(transparent)]
    Esp(#[from] EspError),
    /// The partition tables can't be made.
    #[error(transparent)]
    Table(#[from] TableError),
    /// xorriso failed or is missing.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The boot kit lacks something.
    #[error(transparent)]
    Kit(#[from] BootToolsError),
    #[error("the boot menu")]
    Template(#[from] TemplateError),
    /// A file can't be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Makes the medium of a build.
///
/// # Errors
/// [`MakeIsoError`]; an older medium is then still there.
pub fn make_medium(
    request: &Request<'_>,
    systems: &Systems,
    boot: &BootFiles,
    out: &OutputDirectory,
    runner: &mut StepRunner,
) -> Result<IsoParts, MakeIsoError> {
    let step = runner.start("iso");
    let recipe = request.recipe;
    let (name, description) = (recipe.name.as_str(), recipe.description.as_str());
    let grub = Grub::of(&BootTools { tree: &systems.kit, contents: &systems.spools })?;
    let config = {
        let guests: Vec<&str> = recipe.guests.iter().map(|guest| guest.name.as_str()).collect();
        grub::config(&request.project.templates(), name, description, &recipe.boot, &guests)?
    };
    let contents = MediumContents {
        name,
        epoch: systems.epoch,
        config: &config,
        grub: &grub,
        xen: boot.xen.as_deref(),
        kernel: &boot.kernel,
        miniroot: &boot.miniroot,
        grafts: &[],
    };
    let target = out.medium(&request.name());
    step.run(inputs(&contents), |_| {
        make(&contents, OutputPath::find(&target)?, &out.logs().join("xorriso.log"))
    })
}

/// What a medium without blocks depends on.
fn inputs(contents: &MediumContents<'_>) -> StepInputs {
    let MediumContents { name, epoch, config, grub, xen, kernel, miniroot, grafts: _ } = *contents;
    let inputs = StepInputs::new()
        .with("name", name)
        .with("epoch", epoch)
        .with_bytes("boot menu", config.as_bytes())
        .with_bytes("GRUB for BIOS", &grub.bios)
        .with_bytes("GRUB for UEFI", &grub.uefi)
        .with_bytes("boot sector", &grub.mbr)
        .with_bytes("kernel", kernel)
        .with_bytes("miniroot", miniroot);
    match xen {
        Some(xen) => inputs.with_bytes("Xen", xen),
        None => inputs,
    }
}

/// Makes the medium `target`; it appears when it is complete. `log` gets what xorriso says.
///
/// # Errors
/// [`MakeIsoError`]; an older `target` is then still there.
pub fn make(contents: &MediumContents<'_>, target: OutputPath, log: &Path) -> Result<IsoParts, MakeIsoError> {
    let plan = IsoPlan::of(contents)?;
    // Beside the log, which is in the output directory, if it is not to be a file.
    let beside = target.directory().or(log.parent()).unwrap_or(Path::new("."));
    let stage = Scratch::directory(beside)?;
    for (name, bytes) in &plan.staged {
        let path = stage.path().join(name);
        fs::write(&path, bytes).map_err(|error| FileError::new(&path, "write", error))?;
    }
    let mut xorriso = Tool::new("xorriso").args(&plan.args).current_dir(stage.path()).log(log);
    for (name, value) in &plan.env {
        xorriso = xorriso.env(name, value);
    }
    xorriso.run()?;

    let made = stage.path().join(OUTPUT);
    let failed = |error| FileError::new(&made, "open", error);
    let iso = File::options().read(true).write(true).open(&made).map_err(failed)?;
    gpt::lay(&iso, &plan.identity)?;
    let total = iso.metadata().map_err(failed)?.len();
    target.take(&made)?;
    Ok(plan.parts(total))
}

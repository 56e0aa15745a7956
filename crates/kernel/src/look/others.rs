//! Other programs' firewalls, as nft and iptables list them.

use serde_json::Value;
use std::{
    env, fs, io::ErrorKind, os::unix::fs::PermissionsExt, path::Path, process::Stdio,
    time::Duration,
};
use tokio::{process::Command, time};
use weir_diagnosis::{
    IptablesSave, NftListing, OtherFirewalls, Programs,
    firewall::{Family, Manager},
};
use weir_kernel_plan::{KernelError, NFT_TABLE};

use crate::{
    error::failed,
    firewall::{RULESET_SECONDS, SECONDS, run},
};

/// The names that iptables gives its tables; it makes and manages those that bear them.
const IPTABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

/// Reads them all. Our own table, which may be large, is not listed.
pub(super) async fn read(nft: &Path) -> Result<OtherFirewalls, KernelError> {
    let mut listings = Vec::new();
    let mut unread = Vec::new();
    let mut like_iptables = false;
    for (family, name) in tables(nft).await? {
        if (family.as_str(), name.as_str()) == ("inet", NFT_TABLE) {
            continue;
        }
        like_iptables |= family.starts_with("ip") && IPTABLES.contains(&name.as_str());
        match listing(nft, &family, &name).await {
            Ok(listing) => listings.push(listing),
            Err(error) => unread.push(format!(
                "the table {family} {name} cannot be read: {}",
                error.reason
            )),
        }
    }
    let mut saves = Vec::new();
    for (family, prefix, names) in [
        (Family::Ip, "iptables", "/proc/self/net/ip_tables_names"),
        (Family::Ip6, "ip6tables", "/proc/self/net/ip6_tables_names"),
    ] {
        let legacy = fs::read_to_string(names).is_ok_and(|names| !names.trim().is_empty());
        let mut programs = Vec::new();
        if like_iptables || legacy {
            programs.push(format!("{prefix}-save"));
        }
        if legacy {
            programs.push(format!("{prefix}-legacy-save"));
        }
        for program in programs {
            match save(&program, family).await {
                Ok(Some(save)) if !saves.contains(&save) => saves.push(save),
                Ok(Some(_) | None) => {}
                Err(reason) => unread.push(reason),
            }
        }
    }
    let programs = Programs {
        ufw: is_installed("ufw"),
        firewalld: is_installed("firewall-cmd"),
    };
    Ok(OtherFirewalls::read(&listings, &saves, unread, programs))
}

async fn tables(nft: &Path) -> Result<Vec<(String, String)>, KernelError> {
    let operation = "list the firewall tables";
    let printed = run(
        nft,
        operation,
        &["-j", "list", "tables"],
        Stdio::null(),
        SECONDS,
    )
    .await?;
    let listing: Value = serde_json::from_slice(&printed)
        .map_err(|error| failed(operation, format!("nft printed no JSON: {error}")))?;
    let objects = listing.get("nftables").and_then(Value::as_array);
    Ok(objects
        .into_iter()
        .flatten()
        .filter_map(|object| object.get("table"))
        .filter_map(|table| {
            let word = |field| table.get(field).and_then(Value::as_str).map(str::to_owned);
            Some((word("family")?, word("name")?))
        })
        .collect())
}

async fn listing(nft: &Path, family: &str, name: &str) -> Result<NftListing, KernelError> {
    let operation = "list a firewall table";
    let list = async |form| {
        let arguments = [form, "list", "table", family, name];
        run(nft, operation, &arguments, Stdio::null(), RULESET_SECONDS).await
    };
    let json = serde_json::from_slice(&list("-j").await?)
        .map_err(|error| failed(operation, format!("nft printed no JSON: {error}")))?;
    let text = String::from_utf8_lossy(&list("-a").await?).into_owned();
    Ok(NftListing { json, text })
}

/// What one of the `iptables-save` programs prints; none where it is not installed.
async fn save(program: &str, family: Family) -> Result<Option<IptablesSave>, String> {
    let mut command = Command::new(program);
    command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = match time::timeout(Duration::from_secs(RULESET_SECONDS), command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Ok(Err(error)) => return Err(format!("{program} cannot be run: {error}")),
        Err(_) => return Err(format!("{program} did not end within {RULESET_SECONDS} s")),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let first = said.lines().next().unwrap_or_default();
        return Err(format!("{program} says: {first}"));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let manager = if text.contains("(nf_tables)") {
        Manager::IptablesNft
    } else {
        Manager::IptablesLegacy
    };
    Ok(Some(IptablesSave {
        family,
        manager,
        text,
    }))
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| {
        fs::metadata(directory.join(program))
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

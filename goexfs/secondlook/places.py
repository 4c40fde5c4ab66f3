"""Places where a file does something without being asked for by name: hooks, start-up files, tasks, installers.

Owns the table.  A place is marked when what is there came, changed or went.  What only runs when a person asks for it
(Makefiles, scripts, tests) is not in it: marks that are always there are not read.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from goexfs.secondlook.texts import Reader
from snapshots.review.changes import Change, Status


class Place(NamedTuple):
    """One kind of place.  The tuples hold bytes; a path fits if it fits one of them."""

    kind: str
    reason: str
    below: tuple[bytes, ...] = ()
    """directories, anywhere in the path"""
    paths: tuple[bytes, ...] = ()
    """the last names of the path: ``b".git/config"``, or a single name"""
    suffixes: tuple[bytes, ...] = ()
    if_holds: tuple[bytes, ...] = ()
    """only when the new content holds one of these (lower case); empty: always"""


def _names(text: str) -> tuple[bytes, ...]:
    return tuple(text.encode().split())


PLACES = (
    Place(
        "git-hook",
        "git hook: git runs it by itself",
        below=_names(".git/hooks .husky .githooks"),
    ),
    Place(
        "git-config",
        "git configuration that names a command: git runs it by itself",
        paths=_names(".git/config .git/config.worktree .gitconfig .config/git/config"),
        if_holds=_names(
            "hookspath fsmonitor sshcommand pager editor [alias [filter [diff [merge credential [include "
            "textconv insteadof gpg"
        ),
    ),
    Place(
        "git-config",
        "git attributes: can name filters that git runs",
        paths=_names(".git/info/attributes"),
    ),
    Place(
        "git-config",
        "submodules: git fetches what it names",
        paths=_names(".gitmodules"),
    ),
    Place(
        "ci",
        "CI configuration: runs on other machines, with their secrets",
        below=_names(
            ".github/workflows .github/actions .circleci .buildkite .gitlab/ci .woodpecker .forgejo/workflows "
            ".gitea/workflows"
        ),
        paths=_names(
            ".gitlab-ci.yml .gitlab-ci.yaml Jenkinsfile azure-pipelines.yml azure-pipelines.yaml .travis.yml "
            "appveyor.yml .appveyor.yml bitbucket-pipelines.yml .drone.yml .cirrus.yml .woodpecker.yml "
            "buildspec.yml cloudbuild.yaml .pre-commit-config.yaml .lefthook.yml lefthook.yml .sourcehut.yml "
            ".build.yml"
        ),
    ),
    Place(
        "start-up",
        "shell start-up file: runs in every new shell",
        below=_names(".config/fish/conf.d .bashrc.d .zsh.d etc/profile.d"),
        paths=_names(
            ".bashrc .bash_profile .bash_login .bash_logout .bash_aliases .profile .zshrc .zshenv .zprofile "
            ".zlogin .zlogout .config/fish/config.fish .cshrc .tcshrc .login .kshrc .mkshrc .inputrc .envrc "
            ".tmux.conf .xprofile .xinitrc .xsessionrc .ssh/rc .ssh/environment"
        ),
    ),
    Place(
        "start-up",
        "started by the system or the desktop, by itself",
        below=_names(
            ".config/autostart .config/systemd/user etc/cron.d etc/cron.daily etc/cron.hourly etc/init.d "
            "etc/systemd/system Library/LaunchAgents var/spool/cron"
        ),
        paths=_names("etc/crontab etc/rc.local etc/ld.so.preload"),
    ),
    Place(
        "access",
        "decides who may log in, or as whom",
        below=_names("etc/sudoers.d etc/pam.d"),
        paths=_names(
            ".ssh/authorized_keys .ssh/config .ssh/known_hosts etc/passwd etc/shadow etc/sudoers .netrc .rhosts "
            ".k5login"
        ),
    ),
    Place(
        "editor-task",
        "editor or IDE settings: can run commands when the folder is opened",
        below=_names(".idea/runConfigurations .devcontainer .vim .nvim"),
        paths=_names(
            ".vscode/tasks.json .vscode/settings.json .vscode/launch.json .vscode/mcp.json "
            ".vscode/extensions.json .idea/workspace.xml .idea/externalDependencies.xml .exrc .vimrc .nvimrc "
            ".nvim.lua .lvimrc .dir-locals.el .emacs .sublime-project .zed/settings.json .zed/tasks.json "
            ".devcontainer.json"
        ),
    ),
    Place(
        "agent",
        "instructs or equips agents: the next one obeys it",
        below=_names(".claude .cursor/rules .codex .gemini .windsurf .github/instructions .clinerules"),
        paths=_names(
            "CLAUDE.md CLAUDE.local.md AGENTS.md GEMINI.md .cursorrules .windsurfrules .mcp.json "
            ".cursor/mcp.json .github/copilot-instructions.md .aider.conf.yml .goexfs.toml"
        ),
    ),
    Place(
        "install-hook",
        "runs code when packages are installed or built",
        paths=_names(
            "setup.py binding.gyp build.rs extconf.rb sitecustomize.py usercustomize.py .pnpmfile.cjs "
            "pnpmfile.js PKGBUILD .cargo/config.toml .cargo/config .mvn/extensions.xml "
            "gradle/wrapper/gradle-wrapper.properties gradle/wrapper/gradle-wrapper.jar .bazelrc"
        ),
        suffixes=_names(".pth"),
    ),
    Place(
        "install-hook",
        "package scripts that run at installation",
        paths=_names("package.json composer.json"),
        if_holds=_names(
            '"preinstall" "install" "postinstall" "prepare" "preprepare" "postprepare" "prepublish" '
            '"post-install-cmd" "pre-install-cmd" "post-update-cmd" "post-autoload-dump"'
        ),
    ),
    Place(
        "package-source",
        "decides where packages come from",
        below=_names("etc/apt/sources.list.d"),
        paths=_names(
            ".npmrc .yarnrc .yarnrc.yml .pypirc pip.conf .pip/pip.conf .config/pip/pip.conf .condarc .gemrc "
            ".bundle/config nuget.config NuGet.Config .m2/settings.xml bunfig.toml"
        ),
    ),
    Place(
        "lock-file",
        "lock file: which versions are installed, and from where",
        paths=_names(
            "package-lock.json npm-shrinkwrap.json yarn.lock pnpm-lock.yaml bun.lock bun.lockb deno.lock "
            "poetry.lock uv.lock Pipfile.lock pdm.lock pylock.toml conda-lock.yml Cargo.lock go.sum "
            "Gemfile.lock composer.lock mix.lock pubspec.lock packages.lock.json Package.resolved Podfile.lock "
            "flake.lock .terraform.lock.hcl gradle.lockfile"
        ),
    ),
)

GRAVITY = (
    "secret", "setuid", "capability", "device", "access", "link-outside", "git-hook", "git-config", "start-up",
    "agent", "ci", "editor-task", "install-hook", "package-source", "mass-deletion", "hidden-text", "binary-over-text",
    "executable", "lock-file",
)  # fmt: skip
"""Kinds of marks in the order of the listing."""


def _indexed() -> tuple[dict[bytes, list[tuple[bytes, Place]]], list[tuple[bytes, Place]], list[tuple[bytes, Place]]]:
    """Places by their last name, which settles nearly all; and the directories and suffixes, in turn."""
    by_name: dict[bytes, list[tuple[bytes, Place]]] = {}
    below, suffixes = [], []
    for place in PLACES:
        for path in place.paths:
            by_name.setdefault(path.rpartition(b"/")[2].lower(), []).append((b"/" + path.lower(), place))
        below += [(b"/" + path.lower() + b"/", place) for path in place.below]
        suffixes += [(suffix, place) for suffix in place.suffixes]
    return by_name, below, suffixes


_BY_NAME, _BELOW, _SUFFIXES = _indexed()


@lru_cache(maxsize=256)
def _below(directory: bytes) -> list[Place]:
    """The places that a directory, given with slashes at both ends, is or lies in: asked for all that is in it."""
    return [place for part, place in _BELOW if part in directory]


def reasons(change: Change, reader: Reader) -> Iterator[tuple[str, str]]:
    """(kind, reason) for every place at which a change is; case is ignored, as some systems do."""
    if change.after is not None and change.after.is_dir and change.status is not Status.RENAMED:
        return
    for path in {change.path, change.old_path or change.path}:
        full = b"/" + path.lower() + (b"/" if change.after is not None and change.after.is_dir else b"")
        above, slash, name = full.rpartition(b"/")
        candidates = [place for suffix, place in _BY_NAME.get(name, ()) if full.endswith(suffix)]
        candidates += _below(above + slash)
        candidates += [place for suffix, place in _SUFFIXES if full.endswith(suffix)]
        for place in candidates:
            if place.kind == "git-hook" and full.endswith(b".sample"):
                continue
            if not place.if_holds or any(word in reader.text(change.after).lower() for word in place.if_holds):
                yield place.kind, place.reason

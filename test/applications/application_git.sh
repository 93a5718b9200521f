git_does="makes a repository, clones it and this project's, repacks them, and checks every object"
git_packages="git"
git_pool="512M 3G"

application_git() {
  local files=$(choose 200 20000) rounds=$(choose 2 12)
  export GIT_CONFIG_GLOBAL=$work/aside/gitconfig GIT_CONFIG_SYSTEM=/dev/null
  git config --global user.name tester
  git config --global user.email tester@example.org
  git config --global init.defaultBranch main
  git config --global safe.directory '*'
  git config --global gc.auto 0

  # Files in directories of a hundred; some change in every round, some move, some go.
  git init -q made
  cd made
  awk -v files="$files" 'BEGIN {
    srand(1)
    for (i = 0; i < files; ++i) {
      directory = "d" int(i / 100)
      if (i % 100 == 0) system("mkdir -p " directory)
      name = directory "/file" i ".txt"
      for (line = int(rand() * 60) + 1; line > 0; --line) print i, line, rand() > name
      close(name)
    }
  }'
  git add -A
  git commit -q -m "round 0"
  local round
  for ((round = 1; round <= rounds; ++round)); do
    find . -name "file*$round.txt" -not -path './.git/*' | sed -n "1,$((files / 20))p" | while read -r file; do echo "round $round" >>"$file"; done
    git mv "d$round" "moved$round" 2>/dev/null || true
    git rm -q "$(git ls-files | sed -n "$((round * 7))p")"
    git add -A
    git commit -q -m "round $round"
  done
  git fsck --full --strict
  cd ..

  git clone -q --no-local made cloned
  git clone -q made linked # by hard links
  diff -r --exclude=.git made cloned
  if git -C "$source" rev-parse --git-dir >/dev/null 2>&1; then
    git clone -q --no-local "$source" project
    git -C project fsck --full
    [[ -z $(git -C project status --porcelain) ]]
  fi
  local repository
  for repository in made cloned linked; do
    git -C "$repository" gc -q --aggressive --prune=now
    git -C "$repository" repack -q -a -d -f
    git -C "$repository" fsck --full --strict
    [[ -z $(git -C "$repository" status --porcelain) ]]
  done
  [[ $(git -C made rev-parse HEAD^{tree}) == "$(git -C cloned rev-parse HEAD^{tree})" ]]
  git -C made worktree add -q ../tree HEAD~1
  git -C made checkout -q HEAD~2
  git -C made checkout -q main
  figure "$files files, $((rounds + 1)) commits, $(git -C made count-objects -v | sed -n 's/^in-pack: //p') objects"
}

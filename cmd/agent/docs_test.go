package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every command line of the documents is one that the agent takes: its command is
// there, and so are its flags. A renamed flag would else be found on the worst day.
func TestDocumentedCommands(t *testing.T) {
	documents, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, file := range append(documents, "../../README.md", "../../tools/rescue/README.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range shellLines(string(text)) {
			total++
			if err := takes(words(line)); err != nil {
				t.Errorf("%s: %s: %v", filepath.Base(file), line, err)
			}
		}
	}
	if total < 30 {
		t.Errorf("only %d command lines were found", total)
	}
	if takes(words("restore --ponit latest")) == nil || takes(words("restor")) == nil || takes(words("diff a")) == nil {
		t.Error("what the agent does not take passes")
	}
}

// shellLines are the command lines of the agent in a document's sh and console blocks,
// without the name of the program.
func shellLines(text string) []string {
	var lines []string
	inside := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "```") {
			inside = line == "```sh" || line == "```console"
			continue
		}
		line = strings.TrimPrefix(line, "$ ")
		for _, program := range []string{"agent ", "go run ./cmd/agent "} {
			if rest, ok := strings.CutPrefix(line, program); ok && inside {
				lines = append(lines, rest)
			}
		}
	}
	return lines
}

// words splits a line as a shell does, as far as the documents need it.
func words(line string) []string {
	var all []string
	word, quoted, begun := "", false, false
	for _, r := range line + " " {
		switch {
		case r == '\'':
			quoted, begun = !quoted, true
		case r == '#' && !begun && !quoted:
			return all
		case r == ' ' && !quoted:
			if begun {
				all = append(all, word)
			}
			word, begun = "", false
		default:
			word, begun = word+string(r), true
		}
	}
	return all
}

// takes tells whether the agent knows this command with these flags and as many words.
func takes(args []string) error {
	c, rest, err := (&app{}).root().Find(args)
	if err != nil {
		return err
	}
	if err := c.ParseFlags(rest); err != nil {
		return err
	}
	rest = c.Flags().Args()
	if !c.Runnable() || c.HasSubCommands() && len(rest) > 0 {
		return unknownCommand(c, strings.Join(rest, " "))
	}
	if c.Args == nil {
		return nil
	}
	return c.Args(c, rest)
}

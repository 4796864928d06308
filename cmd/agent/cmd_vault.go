package main

import "github.com/spf13/cobra"

func (a *app) vaultCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "vault",
		Short:   "Manage the vault",
		Example: "  agent vault soft-delete 30",
	}
	c.AddCommand(a.softDeleteCommand())
	return family(c, missingCommand)
}
